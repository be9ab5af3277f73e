"""The one script a page may have: tables are sorted by a click on a header, cards by a click on a button.

Without it the page is complete, in the order in which it was written.
"""

SCRIPT = """
"use strict";
const number = text => {
  const plain = text.trim().replace(/,/g, "").replace(/\\u2212/g, "-");
  return /^[-+]?[0-9.]/.test(plain) ? parseFloat(plain) : null;
};
const compare = (a, b) => {
  const x = number(a), y = number(b);
  if (x !== null && y !== null) return x - y;
  if (x !== null || y !== null) return x !== null ? -1 : 1;
  return a.localeCompare(b);
};
const arrange = (parent, items, key, down) => {
  const sorted = items.map((item, place) => [key(item), place, item]);
  sorted.sort((a, b) => (down ? -1 : 1) * compare(a[0], b[0]) || a[1] - b[1]);
  sorted.forEach(([, , item]) => parent.appendChild(item));
};
document.querySelectorAll("table.sortable").forEach(table => {
  const headers = [...table.tHead.rows[0].cells];
  headers.forEach((header, column) => header.addEventListener("click", () => {
    const down = header.getAttribute("aria-sort") !== "descending";
    headers.forEach(other => other.removeAttribute("aria-sort"));
    header.setAttribute("aria-sort", down ? "descending" : "ascending");
    const body = table.tBodies[0];
    arrange(body, [...body.rows], row => row.cells[column].textContent, down);
  }));
});
document.querySelectorAll(".cards").forEach(cards => {
  const buttons = [...cards.querySelectorAll(".sort-by button")];
  buttons.forEach(button => button.addEventListener("click", () => {
    const down = button.getAttribute("aria-pressed") !== "true" || button.dataset.down !== "true";
    buttons.forEach(other => other.setAttribute("aria-pressed", "false"));
    button.setAttribute("aria-pressed", "true");
    button.dataset.down = down;
    arrange(cards, [...cards.querySelectorAll(".utterance")], card => card.dataset[button.value], down);
  }));
});
"""
