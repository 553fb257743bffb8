// What is on show, and its place in the address: #image=...&backbone=...&method=...&k=...

const content = JSON.parse(document.getElementById("content").textContent);

/** The knob values of a method, most expensive first; see evaluation/explorer/stops.py. */
class Knob {
  constructor(method) {
    this.segments = method.segments;
    this.track = method.track;
    this.last = this.segments.reduce((sum, [first, last]) => sum + Math.abs(last - first) + 1, 0) - 1;
  }

  /** Return the knob value of a stop. */
  value(stop) {
    for (const [first, last, parts] of this.segments) {
      const count = Math.abs(last - first) + 1;
      if (stop < count) return (first + (last >= first ? stop : -stop)) / parts;
      stop -= count;
    }
    return NaN;
  }

  /** Return the stop nearest to a knob value. */
  stop(value) {
    let best = 0;
    let before = 0;
    for (const [first, last, parts] of this.segments) {
      const at = Math.min(Math.max(Math.round(value * parts), Math.min(first, last)), Math.max(first, last));
      const stop = before + Math.abs(at - first);
      if (Math.abs(this.value(stop) - value) < Math.abs(this.value(best) - value)) best = stop;
      before += Math.abs(last - first) + 1;
    }
    return best;
  }

  /** Return the step of the slider, cheapest first, that is nearest to a stop. */
  step(stop) {
    let low = 0;
    let high = this.track.length - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.track[middle] < stop) low = middle + 1;
      else high = middle;
    }
    if (low > 0 && stop - this.track[low - 1] < this.track[low] - stop) low--;
    return this.track.length - 1 - low;
  }

  /** Return the stop of a step of the slider. */
  stopAt(step) {
    return this.track[this.track.length - 1 - step];
  }
}

const knobs = content.methods.map((method) => (method.segments.length ? new Knob(method) : null));

/** Return the backbone of a method: its name, methods, original and the curves to open with. */
const backboneOf = (method) => content.backbones[content.methods[method].backbone];

/** Return what the method on show is compared with: the number of the original, or null. */
const reference = () => backboneOf(state.method).reference;

/** Return the method of a backbone with a label, else one with a knob, else its first. */
function methodOf(backbone, label) {
  const { methods } = content.backbones[backbone];
  return methods.find((one) => content.methods[one].label === label) ?? methods.find((one) => knobs[one]) ?? methods[0];
}

/** The state of the page. Sides and places are names and shares, so that links outlive layouts. */
const state = {
  image: 0,
  method: Math.max(0, knobs.findIndex((knob) => knob)),
  k: null, // of the method; null is its default
  left: "original",
  right: "sr",
  wipe: 0.5,
  x: 0.35, // of the zoom, as a share of the width
  y: 0.45,
  zoom: 8,
  refine: content.protocol.refine,
};

let writing = 0; // timer of an address to be written

const LAYERS = ["bicubic", "original", "sr", "hr", "routing", "error", "gain"];

/** Take over what an address says; what it leaves out stays as it is. */
function readAddress(hash) {
  clearTimeout(writing);
  const said = new URLSearchParams(hash.slice(1));
  const among = (name, names) => {
    const found = names.indexOf(said.get(name));
    if (found >= 0) state[name] = found;
  };
  among("image", content.images.map((image) => image.name));
  const backbone = content.backbones.findIndex(({ name }) => name === said.get("backbone"));
  const { backbone: before, label } = content.methods[state.method];
  state.method = methodOf(backbone < 0 ? before : backbone, said.get("method") ?? label);
  for (const side of ["left", "right"]) if (LAYERS.includes(said.get(side))) state[side] = said.get(side);
  for (const [name, low, high] of [["wipe", 0, 1], ["x", 0, 1], ["y", 0, 1], ["zoom", 2, 32], ["k", -1e6, 1e6]]) {
    const value = said.get(name) === null ? NaN : Number(said.get(name));
    if (value >= low && value <= high) state[name] = value;
  }
  if (said.has("refine")) state.refine = said.get("refine") !== "0";
}

/** Write the state to the address, once it has come to rest. */
function writeAddress() {
  clearTimeout(writing);
  writing = setTimeout(() => {
    const said = new URLSearchParams({
      image: content.images[state.image].name,
      ...(content.backbones.length < 2 ? {} : { backbone: backboneOf(state.method).name }),
      method: content.methods[state.method].label,
      ...(state.k === null ? {} : { k: state.k }),
      left: state.left,
      right: state.right,
      wipe: state.wipe.toFixed(3),
      x: state.x.toFixed(4),
      y: state.y.toFixed(4),
      zoom: state.zoom,
      refine: state.refine ? 1 : 0,
    });
    history.replaceState(null, "", `#${said}`);
  }, 150);
}
