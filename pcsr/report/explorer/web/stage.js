// The stage: two layers and the wipe between them, and magnified crops that follow the pointer.

const NAMES = { bicubic: "LR, bicubic", original: "Original", sr: "SR", hr: "HR", routing: "Routing", error: "Error", gain: "Gain over the original" };

/** Return what a layer is called: SR by its method. */
function nameOf(layer) {
  return layer === "sr" ? currentMethod().label : NAMES[layer];
}

class Stage {
  constructor(onMove) {
    Object.assign(this, { root: find("stage"), target: find("target"), wipe: find("wipe"), zooms: find("zooms"), onMove });
    this.sides = { left: find("left"), right: find("right") };
    this.tags = { left: find("left-tag"), right: find("right-tag") };
    this.layers = {}; // name -> its pixels
    this.listen();
  }

  /** Show another image: forget all layers and make room for its pixels. */
  resize(width, height) {
    Object.assign(this, { width, height });
    this.layers = {};
    this.root.style.aspectRatio = `${width} / ${height}`;
    this.root.style.setProperty("--ratio", width / height);
    // Setting a size clears a canvas: what is on show stays until there is something new.
    for (const canvas of Object.values(this.sides)) {
      if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    }
    this.makeCrops();
    this.place();
  }

  /** Take over the pixels of layers, RGBA; draw what shows them, and return the buffers of those that they replace. */
  update(layers) {
    const names = Object.keys(layers);
    const replaced = names.filter((name) => this.layers[name]).map((name) => this.layers[name].data.buffer);
    for (const name of names) this.layers[name] = new ImageData(layers[name], this.width, this.height);
    this.drawSides(names);
    this.drawCrops(names);
    return replaced;
  }

  draw() {
    this.drawSides(LAYERS);
    this.place();
    this.drawCrops(LAYERS);
  }

  /** Draw the sides that show one of some layers. */
  drawSides(names) {
    for (const side of ["left", "right"]) {
      const name = state[side];
      if (!names.includes(name)) continue;
      this.tags[side].textContent = nameOf(name);
      this.sides[side].setAttribute("aria-label", `${currentImage().name}: ${nameOf(name)}`);
      if (this.layers[name]) this.sides[side].getContext("2d").putImageData(this.layers[name], 0, 0);
    }
  }

  /** Put the wipe and the frame of the zoom where the state says. */
  place() {
    const percent = 100 * state.wipe;
    this.sides.left.style.clipPath = `inset(0 ${100 - percent}% 0 0)`;
    this.wipe.style.left = `${percent}%`;
    this.wipe.setAttribute("aria-valuenow", Math.round(percent));
    this.wipe.setAttribute("aria-valuetext", `${Math.round(percent)} % ${nameOf(state.left)}`);
    this.tags.left.classList.toggle("covered", state.wipe < 0.12);
    this.tags.right.classList.toggle("covered", state.wipe > 0.88);
    const side = this.cropSide();
    const [left, top] = this.corner(side);
    Object.assign(this.target.style, {
      left: `${(100 * left) / this.width}%`,
      top: `${(100 * top) / this.height}%`,
      width: `${(100 * side) / this.width}%`,
      height: `${(100 * side) / this.height}%`,
    });
  }

  makeCrops() {
    const shown = ["bicubic", "original", "sr", "hr"].filter((name) => name !== "original" || reference() !== null);
    this.crops = {};
    this.zooms.style.setProperty("--crops", shown.length);
    this.zooms.replaceChildren(
      ...shown.map((name) => {
        const figure = element("figure");
        const canvas = element("canvas");
        canvas.setAttribute("role", "img");
        const caption = element("figcaption");
        caption.append(element("b"), element("span"));
        figure.append(canvas, caption);
        this.crops[name] = { canvas, caption };
        return figure;
      }),
    );
  }

  /** Say in the caption of a crop what its whole image has. */
  caption(name, text) {
    if (!this.crops[name]) return;
    const [title, value] = this.crops[name].caption.children;
    title.textContent = nameOf(name);
    value.textContent = text;
    this.crops[name].canvas.setAttribute("aria-label", `${nameOf(name)}, enlarged ${state.zoom} times`);
  }

  /** Return the side of the crops in pixels of the image. */
  cropSide() {
    return Math.min(Math.round(256 / state.zoom), this.width, this.height);
  }

  corner(side) {
    const start = (share, length) => Math.round(clamp(share * length - side / 2, 0, length - side));
    return [start(state.x, this.width), start(state.y, this.height)];
  }

  /** Draw the crops of some layers; the style sheet enlarges them. */
  drawCrops(names) {
    const side = this.cropSide();
    const [left, top] = this.corner(side);
    for (const name of names.filter((name) => this.crops[name] && this.layers[name])) {
      const { canvas } = this.crops[name];
      if (canvas.width !== side) canvas.width = canvas.height = side;
      canvas.getContext("2d").putImageData(this.layers[name], -left, -top, left, top, side, side);
    }
  }

  listen() {
    let dragging = false;
    const follow = (event) => {
      const box = this.root.getBoundingClientRect();
      const x = clamp((event.clientX - box.left) / box.width, 0, 1);
      const y = clamp((event.clientY - box.top) / box.height, 0, 1);
      if (dragging) state.wipe = x;
      else Object.assign(state, { x, y });
      this.moved();
    };
    this.wipe.addEventListener("pointerdown", (event) => {
      dragging = true;
      this.wipe.setPointerCapture(event.pointerId);
    });
    for (const kind of ["pointerup", "pointercancel"]) this.wipe.addEventListener(kind, () => (dragging = false));
    this.root.addEventListener("pointermove", follow);
    this.root.addEventListener("pointerdown", follow);
    const step = (name, by) => (state[name] = clamp(state[name] + by, 0, 1));
    this.wipe.addEventListener("keydown", (event) => this.key(event, (x) => step("wipe", 0.02 * x)));
    this.root.addEventListener("keydown", (event) => this.key(event, (x, y) => {
      step("x", (8 / this.width) * x);
      step("y", (8 / this.width) * y);
    }));
  }

  key(event, move) {
    const by = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!by) return;
    event.preventDefault();
    event.stopPropagation();
    move(...by);
    this.moved();
  }

  /** Draw at the next frame, however many moves there were. */
  moved() {
    this.onMove();
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      this.place();
      this.drawCrops(LAYERS);
    });
  }
}
