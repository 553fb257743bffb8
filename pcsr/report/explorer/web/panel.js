// The controls: method, knob, sides of the wipe; and what the image on show has and costs.

class Panel {
  constructor(calls) {
    Object.assign(this, calls);
    this.slider = find("slider");
    this.number = find("number");
    this.readout = find("readout");
    this.sides = { left: find("left-layer"), right: find("right-layer") };
    this.refine = find("refine");
    this.makeMethods(find("methods"));
    this.makeSides(find("swap"));
    this.slider.addEventListener("input", () => this.slide(this.slider.value));
    this.slider.addEventListener("keydown", (event) => this.leap(event));
    this.number.addEventListener("change", () => this.turn(currentKnob().stop(Number(this.number.value))));
    this.refine.addEventListener("change", () => {
      state.refine = this.refine.checked;
      this.onKnob();
    });
  }

  makeMethods(root) {
    this.methods = content.methods.map((method, number) =>
      choice(root, "method", method.label, () => {
        Object.assign(state, { method: number, k: null });
        this.onMethod();
      }),
    );
  }

  makeSides(swap) {
    for (const [side, select] of Object.entries(this.sides)) {
      select.append(...LAYERS.map((name) => Object.assign(element("option", "", NAMES[name]), { value: name })));
      select.addEventListener("change", () => {
        state[side] = select.value;
        this.nameSides();
        this.onView();
      });
    }
    swap.addEventListener("click", () => {
      [state.left, state.right] = [state.right, state.left];
      this.nameSides();
      this.onView();
    });
  }

  /** Offer the methods of the backbone, and what can be shown of them. */
  offer() {
    const { methods } = currentBackbone();
    this.methods.forEach((input, number) => (input.parentElement.hidden = !methods.includes(number)));
    this.methods[0].closest("div").hidden = methods.length < 2;
    for (const [side, select] of Object.entries(this.sides)) {
      select.querySelector("[value=sr]").textContent = currentMethod().label;
      for (const name of ["original", "gain"]) {
        select.querySelector(`[value=${name}]`).hidden = reference() === null;
        if (reference() === null && state[side] === name) state[side] = "bicubic";
      }
    }
  }

  /** Say what is on the sides of the wipe. */
  nameSides() {
    for (const [side, select] of Object.entries(this.sides)) select.value = state[side];
    find("legend").replaceChildren(...legendOf([state.left, state.right]));
  }

  /** Show the controls of the state's method, and the curves of the state's image. */
  open() {
    const knob = currentKnob();
    this.offer();
    this.nameSides();
    this.methods[state.method].checked = true;
    find("knob").hidden = !knob;
    find("refine-label").hidden = currentMethod().unit !== "pixel";
    this.refine.checked = state.refine;
    if (knob) {
      find("knob-name").textContent = `knob ${currentMethod().letter}`;
      this.slider.max = knob.track.length - 1;
      this.slider.value = knob.step(this.stop());
    }
    this.drawCurves();
  }

  drawCurves() {
    const image = currentImage();
    this.base = reference() === null ? null : image.methods[reference()].points[0];
    const curves = currentBackbone().methods.map((number) => {
      const { label, letter } = content.methods[number];
      return { label, letter, points: image.methods[number].points };
    });
    find("own-caption").textContent = `This image: ${image.name}`;
    this.chart = chartOf("own", curves, this.base, ({ method, k }) => {
      const same = method === state.method;
      Object.assign(state, { method, k });
      if (same) this.turn(currentKnob().stop(k));
      else this.onMethod();
    });
  }

  /** Return the stop of the state's knob; 0 for a method without one. */
  stop() {
    return currentKnob()?.stop(state.k ?? currentMethod().default) ?? 0;
  }

  turn(stop) {
    state.k = currentKnob().value(stop);
    this.slider.value = currentKnob().step(stop);
    this.onKnob();
  }

  slide(step) {
    this.turn(currentKnob().stopAt(Number(step)));
  }

  /** Page Up and Page Down move a tenth of the way. */
  leap(event) {
    const by = { PageUp: 0.1, PageDown: -0.1 }[event.key];
    if (!by) return;
    event.preventDefault();
    this.slide(clamp(Number(this.slider.value) + Math.round(by * this.slider.max), 0, this.slider.max));
  }

  /** Show what was measured of an image composed at a stop, and return it. */
  show({ units, psnr }, stop, others) {
    const { costs } = currentImage().methods[state.method];
    const flopsOf = ({ shared, branch }) => units.reduce((sum, count, j) => sum + branch[j] * count, shared);
    const measured = { psnr, units, flops: flopsOf(costs.paper), engine: flopsOf(costs.engine) };
    const knob = currentKnob();
    if (knob && document.activeElement !== this.number) this.number.value = knob.value(stop);
    const gflops = measured.engine / 1e9;
    const share = this.base && (100 * gflops) / this.base.gflops;
    const [quality, executed, paper] = [`${psnr.toFixed(2)} dB`, `${gflops.toPrecision(3)} G`, `${(measured.flops / 1e9).toPrecision(3)} G`];
    const cost = share === null ? executed : percent(share);
    const gain = this.base && state.method !== reference() ? `${signed(psnr - others.original, 2)} dB against the original` : "";
    const rows = [["PSNR", quality, gain], ["FLOPs", cost, `${executed} executed; ${paper} as the papers count`]];
    if (knob) rows.push([currentMethod().unit === "tile" ? "Tiles" : "Pixels", percent(sharesOf(units).at(-1)), "to the most expensive branch"]);
    this.readout.replaceChildren(...rows.flatMap(([name, value, note]) => {
      const cell = element("dd");
      cell.append(element("strong", "", value), element("small", "", note));
      return [element("dt", "", name), cell];
    }));
    if (knob) this.readout.append(barOf(sharesOf(units)));
    find("brief").textContent = `${quality}, ${cost}`;
    this.speak(`${knob ? `${currentMethod().letter} = ${knob.value(stop)}, ` : ""}${quality}, ${cost}${share === null ? "FLOPs" : " of the FLOPs"}`);
    this.chart.mark({ x: share ?? gflops, y: psnr });
    return measured;
  }

  /** Tell those who do not see the page what is on show, once it has come to rest. */
  speak(text) {
    this.slider.setAttribute("aria-valuetext", text);
    clearTimeout(this.speaking);
    this.speaking = setTimeout(() => (find("spoken").textContent = text), 600);
  }
}

/** Add one of several choices to a group of radio buttons, and return its input. */
function choice(root, name, text, onChoice) {
  const label = element("label");
  const input = Object.assign(element("input"), { type: "radio", name });
  input.addEventListener("change", onChoice);
  label.append(input, element("span", "", text));
  root.append(label);
  return input;
}

/** Return the share of each branch in percent. */
function sharesOf(units) {
  const total = units.reduce((a, b) => a + b, 0);
  return units.map((count) => (100 * count) / total);
}

/** Return a bar of the branches' shares, cheapest first. */
function barOf(shares) {
  const bar = element("div", "shares");
  shares.forEach((share, j) => {
    const part = element("span");
    part.style.flexGrow = share;
    part.style.background = rgb(branchColour(j, shares.length));
    part.title = `branch ${j + 1} of ${shares.length}: ${percent(share)}`;
    bar.append(part);
  });
  bar.setAttribute("role", "img");
  bar.setAttribute("aria-label", shares.map((share, j) => `branch ${j + 1}: ${percent(share)}`).join(", "));
  return bar;
}

const rgb = (colour) => `rgb(${colour.map(Math.round).join(" ")})`;

// The scales of the maps: their colours, and what both ends stand for.
const LEGENDS = {
  routing: [BRANCHES, "cheapest branch", "most expensive"],
  error: [ERRORS, "error 0", `${LARGEST_ERROR} levels or more`],
  gain: [GAINS, `${LARGEST_GAIN} levels worse than the original`, `${LARGEST_GAIN} better`],
};

/** Return the legends of the maps among some layers. */
function legendOf(layers) {
  return [...new Set(layers)].filter((name) => name in LEGENDS).map((name) => {
    const [colours, low, high] = LEGENDS[name];
    const [legend, bar] = [element("span", "scale"), element("i")];
    bar.style.background = `linear-gradient(90deg, ${colours.map(rgb).join(", ")})`;
    legend.append(element("span", "", low), bar, element("span", "", high));
    return legend;
  });
}
