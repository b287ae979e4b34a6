// A plot: some series as lines, and their values read by mouse, touch and keyboard.

const SVG = 'http://www.w3.org/2000/svg';
const DASHES = {train: '', eval: '6 3', continuous_eval: '2 3', smoothed: '', loss: '2 3', goodput: ''};
const MOST_ROWS = 1500; // of a table
const MARKED = 60; // points of a series, up to which each has a dot

// The numbers of the page, and how they are to be drawn.
const data = JSON.parse(document.getElementById('data').textContent);
const options = {log: false, smooth: 0, axis: 'step'};
const hidden = {runs: new Set(), splits: new Set()};

function svg(name, attributes, ...children) {
  const element = document.createElementNS(SVG, name);
  for (const [key, text] of Object.entries(attributes)) element.setAttribute(key, text);
  element.append(...children);
  return element;
}

function html(name, attributes, ...children) {
  const element = document.createElement(name);
  Object.assign(element, attributes);
  element.append(...children);
  return element;
}

function coloured(element, colour) {
  element.style.setProperty('--c', `var(--run-${colour})`);
  return element;
}

class Plot {
  // drawNow: called with the plot when it is needed at once.
  constructor(figure, drawNow) {
    this.figure = figure;
    this.plot = data.plots[Number(figure.dataset.plot)];
    this.canvas = figure.querySelector('.canvas');
    this.legend = figure.querySelector('.legend');
    this.at = figure.querySelector('.at');
    this.note = figure.querySelector('.hidden-values');
    const runs = new Set(this.plot.series.map((one) => one.run));
    this.byRun = data.runs.length > 1 && (runs.size > 1 || this.ofRows);
    const splits = [...new Set(this.plot.series.map((one) => one.split))];
    this.lines = this.plot.series.map((one) => ({
      ...one,
      colour: this.byRun ? one.run : splits.indexOf(one.split) % 8,
      dash: DASHES[one.split] ?? '8 3 2 3',
      label: this.byRun ? data.runs[one.run] + (splits.length > 1 ? ` ${one.split}` : '') : one.split,
    }));
    this.place = null; // of the cursor, in this.stops
    this.stops = new Float64Array();
    const details = figure.querySelector('details.values');
    details.addEventListener('toggle', () => details.open && this.table(details.querySelector('.scroll')));
    this.canvas.addEventListener('pointermove', (event) => this.point(event));
    this.canvas.addEventListener('pointerdown', (event) => this.point(event));
    this.canvas.addEventListener('pointerleave', (event) => event.pointerType === 'mouse' && this.read(null));
    this.canvas.addEventListener('keydown', (event) => this.key(event));
    this.canvas.addEventListener('focus', () => {
      drawNow(this);
      if (this.place === null && this.scale) this.read(this.stops.length - 1);
    });
    this.canvas.addEventListener('blur', () => this.read(null));
  }

  get ofRows() {
    return !this.plot.axis;
  }

  get axis() {
    return this.plot.axis || options.axis;
  }

  x(line, mean = false) {
    const [steps, times] = mean ? [line.mx, line.mt] : [line.x, line.t];
    return (this.axis === 'time' ? times : steps) || [];
  }

  xInWords(number) {
    if (this.axis === 'time') return `after ${duration(number)}`;
    return `${this.axis} ${this.axis === 'step' ? number.toLocaleString('en-US') : value(number)}`;
  }

  get visible() {
    return this.lines.filter(
      (line) => !hidden.runs.has(line.run) && !(this.ofRows && hidden.splits.has(line.split)) && this.x(line).length,
    );
  }

  draw() {
    const width = Math.max(200, this.canvas.clientWidth);
    const height = this.canvas.clientHeight;
    const lines = this.visible;
    const logarithmic = options.log && this.plot.section !== 'time';
    const weight = this.ofRows ? options.smooth : 0;
    const logx = this.plot.logx || false;
    const drawn = [];
    let left = 0; // values that a logarithm cannot show
    const xs = [];
    let [low, high] = [Infinity, -Infinity];
    let [begin, end] = [Infinity, -Infinity];
    for (const line of lines) {
      const x = this.x(line);
      const points = [];
      for (let i = 0; i < x.length; i++) {
        if (logarithmic && line.y[i] <= 0) {
          left++;
          continue;
        }
        points.push([x[i], line.y[i]]);
        if (line.y[i] < low) low = line.y[i];
        if (line.y[i] > high) high = line.y[i];
      }
      if (x[0] < begin) begin = x[0];
      if (x[x.length - 1] > end) end = x[x.length - 1];
      let means = null;
      if (weight && x.length > 2) {
        const [mx, my] = line.mx ? [this.x(line, true), line.my] : [x, line.y];
        const smoothed = smooth(my, weight);
        means = mx.map((at, i) => [at, smoothed[i]]).filter((point) => !logarithmic || point[1] > 0);
      }
      xs.push(x);
      drawn.push({line, points, means});
    }
    this.note.hidden = !left;
    this.note.textContent = left
      ? `${left.toLocaleString('en-US')} values of 0 or less have no logarithm, and are not drawn.`
      : '';
    this.stops = Float64Array.from(new Set(xs.flat())).sort();
    this.canvas.replaceChildren();
    if (low > high) {
      this.stops = new Float64Array();
      const why = this.axis === 'time' && !lines.length ? 'these rows have no time' : 'nothing to draw';
      this.canvas.append(svg('svg', {'aria-hidden': 'true'}, svg('text', {x: 12, y: 24, class: 'none'}, why)));
      this.scale = null;
      this.read(null);
      return;
    }
    if (begin === end) [begin, end] = logx ? [begin / 2, end * 2] : [begin - 1, end + 1];
    const room = logarithmic ? (high / low) ** 0.04 : (high - low) * 0.05;
    if (low === high)
      [low, high] = logarithmic
        ? [low / 2, high * 2]
        : [low - (Math.abs(low) * 0.1 || 1), high + (Math.abs(high) * 0.1 || 1)];
    else [low, high] = logarithmic ? [low / room, high * room] : [low - room, high + room];
    const yTicks = ticks(low, high, height < 180 ? 4 : 5, logarithmic);
    const labels = yTicks.map(short);
    const margin = {left: 10 + 6.4 * Math.max(...labels.map((text) => text.length), 2), right: 10, top: 8, bottom: 20};
    const flat = (number) => (logarithmic ? Math.log10(number) : number);
    const along = (number) => (logx ? Math.log10(number) : number);
    const toX = (number) =>
      margin.left +
      ((along(number) - along(begin)) / (along(end) - along(begin))) * (width - margin.left - margin.right);
    const toY = (number) =>
      height -
      margin.bottom -
      ((flat(number) - flat(low)) / (flat(high) - flat(low))) * (height - margin.top - margin.bottom);
    const root = svg('svg', {viewBox: `0 0 ${width} ${height}`, 'aria-hidden': 'true'});
    yTicks.forEach((tick, i) => {
      const y = toY(tick).toFixed(1);
      root.append(svg('line', {class: 'grid', x1: margin.left, x2: width - margin.right, y1: y, y2: y}));
      root.append(svg('text', {x: margin.left - 6, y: Number(y) + 4, 'text-anchor': 'end'}, labels[i]));
    });
    const most = Math.max(2, Math.floor(width / 90));
    const xTicks = this.axis === 'time' ? timeTicks(begin, end, most) : ticks(begin, end, most, logx);
    for (const tick of xTicks) {
      const x = toX(tick);
      if (x < margin.left - 1 || x > width - margin.right + 1) continue;
      const anchor = x > width - 26 ? 'end' : 'middle';
      const text = this.axis === 'time' ? duration(tick) : short(tick);
      root.append(svg('text', {x: Math.min(x, width - 2).toFixed(1), y: height - 5, 'text-anchor': anchor}, text));
    }
    for (const {line, points, means} of drawn) {
      const path = (some) =>
        some.map(([x, y], i) => `${i ? 'L' : 'M'}${toX(x).toFixed(1)} ${toY(y).toFixed(1)}`).join('');
      root.append(
        coloured(
          svg('path', {class: means ? 'line raw' : 'line', d: path(points), 'stroke-dasharray': line.dash}),
          line.colour,
        ),
      );
      if (means)
        root.append(coloured(svg('path', {class: 'line', d: path(means), 'stroke-dasharray': line.dash}), line.colour));
      if (points.length <= MARKED && !means && this.ofRows) {
        for (const [x, y] of points)
          root.append(
            coloured(svg('circle', {class: 'dot', cx: toX(x).toFixed(1), cy: toY(y).toFixed(1), r: 2.4}), line.colour),
          );
      }
      if (this.axis === 'step') {
        for (const step of line.bad) {
          const x = toX(Math.min(Math.max(step, begin), end));
          const y = height - margin.bottom;
          root.append(svg('path', {class: 'bad-mark', d: `M${x - 4} ${y}h8l-4 -8z`}));
        }
      }
    }
    this.marks = svg('g', {});
    root.append(this.marks);
    this.canvas.append(root);
    this.scale = {toX, toY, begin, end, width, height, margin, logx, logarithmic};
    this.canvas.setAttribute('aria-valuemin', 0);
    this.canvas.setAttribute('aria-valuemax', this.stops.length - 1);
    this.read(this.place === null ? null : Math.min(this.place, this.stops.length - 1));
  }

  // Shows the values at a stop; null: the last ones, and no cursor.
  read(place) {
    this.place = place;
    const last = this.stops.length - 1;
    const at = this.stops[place ?? last];
    const words = [];
    const keys = [];
    if (this.marks) this.marks.replaceChildren();
    if (place !== null && this.scale) {
      const x = this.scale.toX(at).toFixed(1);
      this.marks.append(
        svg('line', {
          class: 'cursor',
          x1: x,
          x2: x,
          y1: this.scale.margin.top,
          y2: this.scale.height - this.scale.margin.bottom,
        }),
      );
    }
    for (const line of this.visible) {
      const x = this.x(line);
      const i = place === null ? x.length - 1 : nearest(x, at);
      const other = place !== null && x[i] !== at ? (this.axis === 'time' ? duration(x[i]) : short(x[i])) : '';
      const dash = svg(
        'svg',
        {viewBox: '0 0 18 8', 'aria-hidden': 'true'},
        svg('path', {class: 'line', d: 'M0 4H18', 'stroke-dasharray': line.dash}),
      );
      keys.push(
        html(
          'span',
          {className: 'key'},
          coloured(dash, line.colour),
          line.label,
          html('b', {}, value(line.y[i])),
          ...(other ? [html('small', {}, `at ${other}`)] : []),
        ),
      );
      words.push(`${line.label} ${value(line.y[i])}${other ? ` at ${other}` : ''}`);
      if (place !== null && this.scale && !(this.scale.logarithmic && line.y[i] <= 0)) {
        this.marks.append(
          coloured(
            svg('circle', {
              class: 'dot read',
              cx: this.scale.toX(x[i]).toFixed(1),
              cy: this.scale.toY(line.y[i]).toFixed(1),
              r: 4,
            }),
            line.colour,
          ),
        );
      }
    }
    this.legend.replaceChildren(...keys);
    this.at.textContent = at === undefined ? '' : place === null ? `last: ${this.xInWords(at)}` : this.xInWords(at);
    this.canvas.setAttribute('aria-valuenow', Math.max(0, place ?? last));
    this.canvas.setAttribute(
      'aria-valuetext',
      at === undefined ? 'nothing to read' : `${this.xInWords(at)}: ${words.join('; ')}`,
    );
  }

  point(event) {
    if (!this.scale || !this.stops.length) return;
    const {begin, end, width, margin, logx} = this.scale;
    const box = this.canvas.getBoundingClientRect();
    const share =
      ((event.clientX - box.left) * (width / box.width) - margin.left) / (width - margin.left - margin.right);
    const at = logx ? begin * (end / begin) ** share : begin + share * (end - begin);
    this.read(nearest(this.stops, at));
  }

  key(event) {
    const last = this.stops.length - 1;
    if (last < 0 || event.ctrlKey || event.metaKey || event.altKey) return;
    const now = this.place ?? last;
    const page = Math.max(10, Math.round(last / 20));
    const places = {
      ArrowLeft: now - 1,
      ArrowDown: now - 1,
      ArrowRight: now + 1,
      ArrowUp: now + 1,
      PageDown: now - page,
      PageUp: now + page,
      Home: 0,
      End: last,
    };
    if (event.key === 'Escape') this.read(null);
    else if (event.key in places) {
      event.preventDefault();
      this.read(Math.min(last, Math.max(0, places[event.key])));
    }
  }

  // The points that are drawn, a row for each place on the x axis.
  table(box) {
    const lines = this.visible;
    const maps = lines.map((line) => new Map(this.x(line).map((x, i) => [x, line.y[i]])));
    const head = html(
      'tr',
      {},
      html('th', {scope: 'col', className: 'n'}, this.axis),
      ...lines.map((line) => html('th', {scope: 'col', className: 'n'}, line.label)),
    );
    const stops = [...this.stops].slice(0, MOST_ROWS);
    const rows = stops.map((x) =>
      html(
        'tr',
        {},
        html('th', {scope: 'row', className: 'n'}, this.axis === 'time' ? duration(x) : value(x)),
        ...maps.map((map) => html('td', {className: 'n'}, map.has(x) ? value(map.get(x)) : '')),
      ),
    );
    box.replaceChildren(html('table', {}, html('thead', {}, head), html('tbody', {}, ...rows)));
    if (this.stops.length > stops.length)
      box.append(
        html('p', {className: 'note'}, `the first ${MOST_ROWS} of ${this.stops.length.toLocaleString('en-US')}`),
      );
  }

  get openTable() {
    const details = this.figure.querySelector('details.values');
    return details.open ? details.querySelector('.scroll') : null;
  }
}
