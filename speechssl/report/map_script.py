"""What the page of a map runs in the browser: plain JavaScript without libraries."""

MAP_MARKUP = """
<div class="map">
<style>
.map { position: relative; max-width: 900px; }
.map-controls { display: flex; flex-wrap: wrap; gap: 8px 18px; align-items: center; margin-bottom: 8px; }
.map-controls select, .map-controls input { font: inherit; padding: 3px 6px; max-width: 100%; }
.map svg { width: 100%; height: auto; background: var(--panel); border: 1px solid var(--rule); border-radius: 8px; }
.map circle { cursor: pointer; stroke: var(--page); stroke-width: 1; }
.map circle.dim { opacity: .08; }
.map ellipse { fill: none; stroke: var(--ink); stroke-width: 4; pointer-events: none; }
.map-legend { display: flex; flex-wrap: wrap; gap: 4px 8px; margin: 8px 0; }
.map-legend button {
  font: inherit; font-size: .88rem; color: var(--ink); background: none; border: 1px solid var(--rule);
  border-radius: 12px; padding: 1px 10px; cursor: pointer;
}
.map-legend button[aria-pressed="false"] { opacity: .4; }
.map-legend i { display: inline-block; width: .7em; height: .7em; border-radius: 50%; margin-right: .4em; }
.map-told { min-height: 3.2em; margin: .3rem 0; }
.map-told b { overflow-wrap: anywhere; }
</style>
<div class="map-controls">
<label>Colour by <select id="map-by"></select></label>
<label>Find <input id="map-find" type="search" placeholder="name or text"></label>
</div>
<svg id="map-drawing" viewBox="0 0 1000 1000" tabindex="0" role="application"
 aria-label="Map of utterances: arrow keys go from one to the next, Enter plays it"></svg>
<p class="map-told" id="map-told" aria-live="polite"></p>
<div class="map-legend" id="map-legend"></div>
</div>
"""

MAP_SCRIPT = """
(() => {
  const data = JSON.parse(document.getElementById('map-data').textContent);
  const drawing = document.getElementById('map-drawing'), told = document.getElementById('map-told');
  const by = document.getElementById('map-by'), find = document.getElementById('map-find');
  const legend = document.getElementById('map-legend');
  const hues = ['blue', 'red', 'green', 'purple', 'orange', 'sky', 'yellow'].map(name => `var(--${name})`);
  const rest = 'var(--grey)';
  const audio = new Audio();
  const names = Object.keys(data.labels);
  let hidden = new Set(), chosen = -1;

  const circles = data.points.map(([x, y], index) => {
    const circle = document.createElementNS(drawing.namespaceURI, 'circle');
    circle.setAttribute('cx', x);
    circle.setAttribute('cy', y);
    circle.setAttribute('r', data.points.length > 800 ? 5 : 8);
    circle.dataset.index = index;
    drawing.append(circle);
    return circle;
  });
  const heights = data.points.map(point => point[1]), top = Math.min(...heights) - 30;  // no empty bands
  drawing.setAttribute('viewBox', `0 ${top} 1000 ${Math.max(Math.max(...heights) + 30 - top, 300)}`);
  const ring = document.createElementNS(drawing.namespaceURI, 'ellipse');  // around the chosen one
  drawing.append(ring);
  for (const name of names) by.append(new Option(name, name));

  const value = index => (names.length && data.labels[by.value][index]) || 'unknown';
  const kind = (index, shown) => shown.includes(value(index)) ? value(index) : 'others';

  function counted() {
    const counts = new Map();
    circles.forEach((_, index) => counts.set(value(index), (counts.get(value(index)) || 0) + 1));
    return [...counts].sort((one, two) => two[1] - one[1] || (one[0] < two[0] ? -1 : 1));
  }

  function paint() {
    const shown = counted().slice(0, hues.length).map(entry => entry[0]);
    const words = find.value.trim().toLowerCase();
    circles.forEach((circle, index) => {
      const group = kind(index, shown);
      const place = shown.indexOf(group);
      const text = `${data.names[index]} ${data.details[index]}`.toLowerCase();
      circle.style.fill = place < 0 ? rest : hues[place];
      circle.classList.toggle('dim', hidden.has(group) || !text.includes(words));
    });
  }

  function list() {
    hidden = new Set();
    const every = counted(), shown = every.slice(0, hues.length);
    const others = every.slice(hues.length).reduce((sum, entry) => sum + entry[1], 0);
    legend.replaceChildren(...[...shown, ...(others ? [['others', others]] : [])].map(([name, count], place) => {
      const button = document.createElement('button'), dot = document.createElement('i');
      button.type = 'button';
      button.setAttribute('aria-pressed', 'true');
      dot.style.background = name === 'others' ? rest : hues[place];
      button.append(dot, `${name} (${count})`);
      button.addEventListener('click', () => {
        hidden.has(name) ? hidden.delete(name) : hidden.add(name);
        button.setAttribute('aria-pressed', String(!hidden.has(name)));
        paint();
      });
      return button;
    }));
    paint();
  }

  function tell(index) {
    chosen = index;
    // The circle itself stays where it is: one that moves in the document while it is pointed at loses its click.
    const size = Number(circles[index].getAttribute('r')) + 2;
    const place = {cx: data.points[index][0], cy: data.points[index][1], rx: size, ry: size};
    for (const [key, number] of Object.entries(place)) ring.setAttribute(key, number);
    const bold = document.createElement('b');
    bold.textContent = data.names[index];
    const labels = names.map(name => `${name}: ${data.labels[name][index] || 'unknown'}`);
    told.replaceChildren(bold, ' ' + [data.details[index], ...labels].filter(Boolean).join(' · '));
  }

  function play(index) {
    tell(index);
    if (!data.sounds[index]) return told.append(' (its sound is not in this page)');
    audio.src = data.sounds[index];
    audio.play().catch(error => told.append(` (cannot be played: ${error.message})`));
  }

  const at = event => event.target.dataset && event.target.dataset.index;
  drawing.addEventListener('pointerover', event => at(event) !== undefined && tell(Number(at(event))));
  drawing.addEventListener('click', event => at(event) !== undefined && play(Number(at(event))));
  drawing.addEventListener('keydown', event => {
    const step = {ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1}[event.key];
    if (event.key === 'Enter' && chosen >= 0) play(chosen);
    else if (step) tell((chosen + step + circles.length) % circles.length);
    else return;
    event.preventDefault();
  });
  by.addEventListener('change', list);
  find.addEventListener('input', paint);
  if (!names.length) by.parentElement.hidden = true;
  list();
})();
"""
