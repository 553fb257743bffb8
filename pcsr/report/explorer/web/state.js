// What is on show, and its place in the address: #image=...&backbone=...&method=...&k=...

const find = (id) => document.getElementById(id);
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
const content = JSON.parse(find("content").textContent);

/** The knob values of a method, most expensive first; see evaluation/explorer/stops.py. */
class Knob {
  constructor({ segments, track }) {
    Object.assign(this, { segments, track });
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
      const at = clamp(Math.round(value * parts), Math.min(first, last), Math.max(first, last));
      const stop = before + Math.abs(at - first);
      if (Math.abs(this.value(stop) - value) < Math.abs(this.value(best) - value)) best = stop;
      before += Math.abs(last - first) + 1;
    }
    return best;
  }

  /** Return the step of the slider, cheapest first, that is nearest to a stop. */
  step(stop) {
    const distances = this.track.map((one) => Math.abs(one - stop));
    return this.track.length - 1 - distances.lastIndexOf(Math.min(...distances));
  }

  /** Return the stop of a step of the slider. */
  stopAt(step) {
    return this.track[this.track.length - 1 - step];
  }
}

const knobs = content.methods.map((method) => (method.segments.length ? new Knob(method) : null));

// What is on show: a backbone has a name, methods, an original and the curves to open with.
const currentImage = () => content.images[state.image];
const currentMethod = () => content.methods[state.method];
const currentKnob = () => knobs[state.method]; // null for a method without one
const currentBackbone = () => content.backbones[currentMethod().backbone];

/** Return what the method on show is compared with: the number of the original, or null. */
const reference = () => currentBackbone().reference;

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
  const image = content.images.findIndex(({ name }) => name === said.get("image"));
  if (image >= 0) state.image = image;
  const backbone = content.backbones.findIndex(({ name }) => name === said.get("backbone"));
  const { backbone: before, label } = currentMethod();
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
      image: currentImage().name,
      ...(content.backbones.length < 2 ? {} : { backbone: currentBackbone().name }),
      method: currentMethod().label,
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
