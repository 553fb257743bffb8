// A small chart: PSNR over FLOPs, one line per method, with a readout under the pointer.

const SVG = "http://www.w3.org/2000/svg";
const MARKERS = {
  diamond: (x, y, r) => `M${x},${y - 1.4 * r}l${1.4 * r},${1.4 * r}l${-1.4 * r},${1.4 * r}l${-1.4 * r},${-1.4 * r}z`,
  circle: (x, y, r) => `M${x - r},${y}a${r},${r} 0 1,0 ${2 * r},0a${r},${r} 0 1,0 ${-2 * r},0`,
  triangle: (x, y, r) => `M${x},${y - 1.2 * r}l${1.2 * r},${2.2 * r}h${-2.4 * r}z`,
  down: (x, y, r) => `M${x},${y + 1.2 * r}l${1.2 * r},${-2.2 * r}h${-2.4 * r}z`,
  square: (x, y, r) => `M${x - r},${y - r}h${2 * r}v${2 * r}h${-2 * r}z`,
};
const SHAPES = Object.values(MARKERS);

// A method has one colour and one marker in all charts, those of the suite's figures (report/figures/style.py);
// those of other packages come after.
const KNOWN = ["Original", "PCSR", "ClassSR", "ARM", "ENAF"];
const others = [];
const STATIC = "Static frontier"; // joins the originals of all backbones that no other one beats

/** Return the marker of a series, and its colour as an inline style. */
function lookOf(name) {
  if (name === STATIC) return { marker: MARKERS.square, style: "--own: var(--series-0)" };
  if (![...KNOWN, ...others].includes(name)) others.push(name);
  const number = KNOWN.includes(name) ? KNOWN.indexOf(name) : KNOWN.length + (others.indexOf(name) % 3);
  return { marker: SHAPES[number % SHAPES.length], style: `--own: var(--series-${number})` };
}

function svg(name, attributes, parent) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  parent?.append(made);
  return made;
}

/** Return about `count` round numbers from low to high. */
function ticks(low, high, count) {
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((one) => one * power >= rough);
  const out = [];
  for (let i = Math.ceil(low / step); i * step <= high + 1e-9; i++) out.push(i * step);
  return out;
}

/** Draw points {x, y, text, hollow} of series {name, points, line} over FLOPs in percent or G. */
class Chart {
  constructor(root, { series, unit, base, onPick }) {
    Object.assign(this, { root, series, onPick });
    this.width = clamp(root.clientWidth, 260, 900); // text keeps its size
    this.height = 210 + this.width / 12;
    this.frame = { left: 46, right: 12, top: 24, bottom: 40 };
    this.scale(base);
    this.svg = svg("svg", { viewBox: `0 0 ${this.width} ${this.height}`, role: "img", "aria-label": this.spoken(unit) });
    this.axes(unit);
    if (base !== null) this.level("base", base);
    for (const one of series) this.draw(one);
    this.marker = svg("path", { class: "live", visibility: "hidden" }, this.svg);
    this.tip = element("p", "tip");
    root.replaceChildren(this.svg, this.legend(), this.tip);
    this.svg.addEventListener("pointermove", (event) => this.point(event));
    this.svg.addEventListener("pointerleave", () => this.show(null));
    this.svg.addEventListener("click", () => this.near && this.near.pick !== undefined && onPick?.(this.near.pick));
  }

  scale(base) {
    const points = this.series.flatMap((one) => one.points);
    const ys = [...points.map((point) => point.y), ...(base === null ? [] : [base])];
    const top = Math.max(...ys);
    // The decibel that matters: what lies further below is left to the table of the suite.
    const bottom = Math.max(Math.min(...ys), top - 1.5);
    const pad = Math.max(0.1 * (top - bottom), 0.02);
    this.low = { x: 0, y: bottom - pad };
    this.high = { x: Math.max(...points.map((point) => point.x)) * 1.04 || 1, y: top + pad };
  }

  at(point) {
    const { left, right, top, bottom } = this.frame;
    const share = (axis) => (point[axis] - this.low[axis]) / (this.high[axis] - this.low[axis]);
    return [left + share("x") * (this.width - left - right), this.height - bottom - share("y") * (this.height - top - bottom)];
  }

  axes(unit) {
    const { left, right, top, bottom } = this.frame;
    const label = (text, attributes) => (svg("text", attributes, this.svg).textContent = text);
    const digits = this.high.y - this.low.y < 0.25 ? 2 : 1;
    for (const y of ticks(this.low.y, this.high.y, 5)) {
      const at = this.level("grid", y);
      label(y.toFixed(digits), { x: left - 6, y: at + 4, "text-anchor": "end" });
    }
    for (const x of ticks(0, this.high.x, this.width / 80)) {
      const [at] = this.at({ x, y: 0 });
      svg("line", { class: "tick", x1: at, x2: at, y1: this.height - bottom, y2: this.height - bottom + 4 }, this.svg);
      label(Number(x.toFixed(6)), { x: at, y: this.height - bottom + 17, "text-anchor": "middle" });
    }
    label(unit, { x: (left + this.width - right) / 2, y: this.height - 5, "text-anchor": "middle" });
    label("PSNR, dB", { x: 0, y: top - 12 });
  }

  /** Draw a horizontal line at a PSNR, and return its height. */
  level(className, psnr) {
    const [, y] = this.at({ x: 0, y: psnr });
    svg("line", { class: className, x1: this.frame.left, x2: this.width - this.frame.right, y1: y, y2: y }, this.svg);
    return y;
  }

  draw({ name, points, line }) {
    const { marker, style } = lookOf(name);
    const shown = points.filter((point) => point.y >= this.low.y);
    const through = (places) => places.map((place) => this.at(place).join()).join(" ");
    const sure = shown.filter((point) => point.low !== undefined);
    const edge = (name) => sure.map((point) => ({ x: point.x, y: Math.max(point[name], this.low.y) }));
    if (line && sure.length) svg("polygon", { class: "band", style, points: through([...edge("low"), ...edge("high").reverse()]) }, this.svg);
    if (line) svg("polyline", { class: "line", style, points: through(shown.filter((point) => !point.hollow)) }, this.svg);
    for (const point of shown) {
      svg("path", { class: point.hollow ? "mark hollow" : "mark", style, d: marker(...this.at(point), line ? 3 : 4.5) }, this.svg);
    }
  }

  legend() {
    const list = element("ul", "keys");
    for (const { name } of this.series) {
      const { marker, style } = lookOf(name);
      const key = svg("svg", { viewBox: "0 0 14 14", "aria-hidden": "true" });
      svg("path", { class: "mark", style, d: marker(7, 7, 4.5) }, key);
      const item = element("li");
      item.append(key, name);
      list.append(item);
    }
    return list;
  }

  spoken(unit) {
    const span = (values, digits) => `${Math.min(...values).toFixed(digits)} to ${Math.max(...values).toFixed(digits)}`;
    const ends = this.series.map(({ name, points }) =>
      `${name}: ${span(points.map(({ y }) => y), 2)} dB from ${span(points.map(({ x }) => x), 1)}`,
    );
    return `PSNR over ${unit}. ${ends.join("; ")}.`;
  }

  point(event) {
    const box = this.svg.getBoundingClientRect();
    const factor = this.width / box.width;
    const [x, y] = [(event.clientX - box.left) * factor, (event.clientY - box.top) * factor];
    const far = (point) => Math.hypot(this.at(point)[0] - x, this.at(point)[1] - y);
    const all = this.series.flatMap((one) => one.points).filter((point) => point.y >= this.low.y);
    const near = all.reduce((best, point) => (far(point) < far(best) ? point : best), all[0]);
    this.show(near && far(near) < 40 ? near : null);
  }

  show(point) {
    this.near = point;
    this.svg.classList.toggle("picks", point?.pick !== undefined && Boolean(this.onPick));
    this.tip.textContent = point ? point.text : "";
    this.svg.querySelector(".halo")?.remove();
    if (!point) return;
    const [x, y] = this.at(point);
    this.marker.before(svg("path", { class: "halo", d: MARKERS.circle(x, y, 8) }));
  }

  /** Put the marker of what is on show at a point. */
  mark(point) {
    const [x, y] = this.at({ x: point.x, y: Math.max(point.y, this.low.y) });
    this.marker.setAttribute("d", MARKERS.circle(x, y, 6));
    this.marker.setAttribute("visibility", Number.isFinite(y) ? "visible" : "hidden");
  }
}
