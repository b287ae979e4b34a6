// The page: its plots, drawn when they are looked at, and its switches. The numbers are in #data.

const plots = [];

const waiting = new Set(); // plots that are to be drawn
const soon = window.requestIdleCallback || ((action) => setTimeout(action, 1));
let idle = false;

// Draws what can be seen at once, and the rest when there is time.
function redraw() {
  const now = plots.filter((plot) => {
    const box = plot.figure.getBoundingClientRect();
    return box.height && box.bottom > 0 && box.top < window.innerHeight;
  });
  for (const plot of plots) waiting.add(plot);
  now.forEach(draw);
  later();
}

function draw(plot) {
  if (!waiting.delete(plot)) return;
  plot.draw();
  if (plot.openTable) plot.table(plot.openTable);
}

function later() {
  if (idle || !waiting.size) return;
  idle = true;
  soon(() => {
    idle = false;
    const end = performance.now() + 12;
    for (const plot of waiting) {
      draw(plot);
      if (performance.now() > end) break;
    }
    later();
  });
}

function on(id, event, action) {
  document.getElementById(id)?.addEventListener(event, (occurred) => action(occurred.target));
}

function showSplits() {
  const box = document.getElementById('splits');
  const splits = [
    ...new Set(plots.filter((plot) => plot.ofRows).flatMap((plot) => plot.lines.map((line) => line.split))),
  ];
  if (!box || splits.length < 2) return;
  box.hidden = false;
  for (const split of splits) {
    const input = html('input', {type: 'checkbox', checked: true});
    input.addEventListener('change', () => {
      input.checked ? hidden.splits.delete(split) : hidden.splits.add(split);
      redraw();
    });
    box.append(html('label', {}, input, ` ${split}`));
  }
}

// Hides the plots of metrics whose name does not have a text in it.
function filter(box) {
  const wanted = box.value.trim().toLowerCase();
  for (const plot of plots) {
    if (plot.plot.section === 'curves') plot.figure.hidden = !plot.plot.name.toLowerCase().includes(wanted);
  }
}

function theme() {
  const select = document.getElementById('theme');
  const set = () => {
    document.documentElement.style.colorScheme = select.value;
  };
  try {
    const kept = localStorage.getItem('tf-trainer-theme');
    if (kept && [...select.options].some((option) => option.value === kept)) select.value = kept;
  } catch {
    // A page from a file may have no storage; the choice is then not kept.
  }
  set();
  select.addEventListener('change', () => {
    set();
    try {
      localStorage.setItem('tf-trainer-theme', select.value);
    } catch {
      // As above.
    }
  });
}

theme();
for (const figure of document.querySelectorAll('figure[data-plot]')) plots.push(new Plot(figure, draw));
showSplits();
on('log', 'change', (box) => {
  options.log = box.checked;
  redraw();
});
on('smooth', 'change', (box) => {
  options.smooth = Number(box.value);
  redraw();
});
on('axis', 'change', (box) => {
  options.axis = box.value;
  redraw();
});
on('only', 'input', (box) => {
  filter(box);
  redraw();
});
for (const box of document.querySelectorAll('.show-run')) {
  box.addEventListener('change', () => {
    box.checked ? hidden.runs.delete(Number(box.value)) : hidden.runs.add(Number(box.value));
    redraw();
  });
}
for (const form of document.querySelectorAll('form'))
  form.addEventListener('submit', (event) => event.preventDefault());
// A browser may have kept these from an earlier visit.
options.log = document.getElementById('log')?.checked ?? false;
options.smooth = Number(document.getElementById('smooth')?.value ?? 0);
options.axis = document.getElementById('axis')?.value ?? 'step';
const only = document.getElementById('only');
if (only?.value) filter(only);
for (const box of document.querySelectorAll('.show-run:not(:checked)')) hidden.runs.add(Number(box.value));
redraw();
window.addEventListener('beforeprint', () => [...waiting].forEach(draw));
let width = window.innerWidth;
let frame = 0;
window.addEventListener('resize', () => {
  if (window.innerWidth === width) return; // a phone hides its address bar
  width = window.innerWidth;
  cancelAnimationFrame(frame);
  frame = requestAnimationFrame(redraw);
});
