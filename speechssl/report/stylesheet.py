"""The style of a report page: one column of sections, readable in light and dark, on a phone and on paper.

Colours of data are Okabe and Ito's palette, which readers with any colour vision can tell apart; figures name them by
variable, so that dark pages get lighter shades of the same hues.
"""

STYLESHEET = """
:root {
  color-scheme: light dark;
  --page: #ffffff; --panel: #f6f7f9; --ink: #1b1f24; --soft: #59636e; --rule: #d5dae0; --accent: #0072b2;
  --good: #e2f3ec; --good-ink: #00573f; --bad: #fbe6da; --bad-ink: #8a3b00; --warn: #fdf2d8; --warn-ink: #6f4a00;
  --blue: #0072b2; --orange: #e69f00; --green: #009e73; --red: #d55e00; --purple: #cc79a7; --sky: #56b4e9;
  --yellow: #c9b800; --grey: #7a828c;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #14171b; --panel: #1d2127; --ink: #e8ebee; --soft: #a3adb8; --rule: #363d46; --accent: #66b8ec;
    --good: #10352a; --good-ink: #7fdcba; --bad: #432413; --bad-ink: #ffb489; --warn: #3b2f10; --warn-ink: #f3cf7a;
    --blue: #4aa3df; --orange: #f0b429; --green: #2fc49a; --red: #ff8a4c; --purple: #e39cc5; --sky: #8fd0f7;
    --yellow: #f0e442; --grey: #98a1ab;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-behavior: smooth; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, "DejaVu Sans", sans-serif;
}
a { color: var(--accent); }
a:focus-visible, summary:focus-visible { outline: 3px solid var(--orange); outline-offset: 2px; }
.page { max-width: 1280px; margin: 0 auto; padding: 0 20px 48px; }
header { padding: 32px 0 8px; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .3rem; letter-spacing: -.01em; }
h2 { font-size: 1.35rem; line-height: 1.3; margin: 0 0 .75rem; }
h3 { font-size: 1.05rem; margin: 1.6rem 0 .5rem; }
p { margin: .5rem 0 .8rem; max-width: 75ch; }
.subtitle { color: var(--soft); font-size: 1.05rem; margin: 0; }
section { border-top: 1px solid var(--rule); padding: 28px 0 12px; scroll-margin-top: 8px; }
.contents ol { margin: 0; padding: 0; list-style: none; display: flex; flex-wrap: wrap; gap: 4px 18px; }
.contents a { text-decoration: none; display: inline-block; padding: 3px 0; }
.contents a:hover { text-decoration: underline; }
.contents { padding: 12px 0 18px; }
.highlights {
  display: grid; grid-template-columns: repeat(auto-fill, minmax(170px, 1fr)); gap: 12px; margin: 20px 0 8px;
}
.highlight { background: var(--panel); border: 1px solid var(--rule); border-radius: 8px; padding: 12px 14px; }
.highlight dt { color: var(--soft); font-size: .85rem; }
.highlight dd { margin: 0; font-size: 1.5rem; font-weight: 650; line-height: 1.3; font-variant-numeric: tabular-nums; }
.highlight dd small { display: block; font-size: .8rem; font-weight: 400; color: var(--soft); }
.scroll { overflow-x: auto; -webkit-overflow-scrolling: touch; }
table { border-collapse: collapse; margin: .3rem 0 0; font-size: .93rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 5px 14px 5px 0; border-bottom: 1px solid var(--rule); vertical-align: top; }
th { font-weight: 600; color: var(--soft); white-space: nowrap; }
tbody th { color: var(--ink); font-weight: 500; }
.number { text-align: right; white-space: nowrap; }
tr:last-child > * { border-bottom: 0; }
tr.best > * { font-weight: 650; }
figure { margin: 0 0 1rem; min-width: 0; }
figure svg, figure img { display: block; width: 100%; height: auto; }
figcaption { color: var(--soft); font-size: .88rem; margin-top: .3rem; max-width: 80ch; }
.panels { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 340px), 1fr)); gap: 12px 24px; }
.wide { overflow-x: auto; }
.wide svg, .wide img { min-width: 620px; }
.wide figcaption { position: sticky; left: 0; }
.plain { background: #ffffff; border-radius: 6px; padding: 4px; }
.note { background: var(--warn); color: var(--warn-ink); padding: 8px 14px; border-radius: 6px; max-width: 75ch; }
.empty { color: var(--soft); font-style: italic; }
details { margin: .6rem 0; }
summary { cursor: pointer; color: var(--accent); }
.utterance {
  background: var(--panel); border: 1px solid var(--rule); border-radius: 8px; padding: 8px 14px; margin: 10px 0;
}
.utterance h4 { margin: 0 0 4px; font-size: .85rem; font-weight: 500; color: var(--soft); overflow-wrap: anywhere; }
.arm { display: grid; grid-template-columns: minmax(6em, 9em) 1fr; gap: 4px 12px; padding: 4px 0; }
.arm > b { font-weight: 600; font-size: .85rem; overflow-wrap: anywhere; }
.words { display: flex; flex-wrap: wrap; gap: 2px 6px; }
.word { display: inline-flex; flex-direction: column; padding: 0 4px; border-radius: 4px; line-height: 1.35; }
.word span { min-height: 1.35em; overflow-wrap: anywhere; }
.word .kind { font-size: .68rem; font-weight: 600; }
.substitute { background: var(--bad); color: var(--bad-ink); }
.delete { background: var(--warn); color: var(--warn-ink); }
.delete span:first-child { text-decoration: line-through; }
th button, .sort-by button { font: inherit; color: inherit; background: none; border: 0; padding: 0; cursor: pointer; }
th button::after { content: " \\2195"; opacity: .45; }
th[aria-sort="descending"] button::after { content: " \\2193"; opacity: 1; }
th[aria-sort="ascending"] button::after { content: " \\2191"; opacity: 1; }
.sort-by button { border: 1px solid var(--rule); border-radius: 6px; padding: 1px 8px; margin: 2px; }
.sort-by button[aria-pressed="true"] { border-color: var(--accent); color: var(--accent); }
.insert { background: var(--good); color: var(--good-ink); }
.key .word { flex-direction: row; }
.breakable { overflow-wrap: anywhere; display: inline-block; min-width: 9em; }
audio { height: 34px; width: 230px; max-width: 100%; display: block; }
footer { border-top: 1px solid var(--rule); padding-top: 14px; color: var(--soft); font-size: .85rem; }
@media (min-width: 1120px) {
  .columns { display: grid; grid-template-columns: 190px minmax(0, 1fr); gap: 40px; }
  .contents { position: sticky; top: 0; align-self: start; padding-top: 28px; max-height: 100vh; overflow-y: auto; }
  .contents ol { flex-direction: column; }
}
@media (max-width: 560px) {
  .page { padding: 0 14px 32px; }
  h1 { font-size: 1.5rem; }
  .arm { grid-template-columns: 1fr; gap: 0; }
}
@media print {
  :root {
    --page: #fff; --panel: #fff; --ink: #000; --soft: #444; --rule: #bbb; --accent: #000;
    --blue: #0072b2; --orange: #e69f00; --green: #009e73; --red: #d55e00; --purple: #cc79a7; --sky: #56b4e9;
    --good: #e2f3ec; --good-ink: #00573f; --bad: #fbe6da; --bad-ink: #8a3b00; --warn: #fdf2d8; --warn-ink: #6f4a00;
    color-scheme: light;
  }
  body { font-size: 10.5pt; }
  .contents { display: none; }
  .columns { display: block; }
  figure, .utterance, tr { break-inside: avoid; }
  h2, h3 { break-after: avoid; }
  .wide, .scroll { overflow: visible; }
  .wide svg, .wide img { min-width: 0; }
  .word { -webkit-print-color-adjust: exact; print-color-adjust: exact; }
}
"""
