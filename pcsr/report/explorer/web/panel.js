// The controls: method, knob, sides of the wipe; and what the image on show has and costs.

class Panel {
  constructor(calls) {
    Object.assign(this, calls);
    const find = (id) => document.getElementById(id);
    this.slider = find("slider");
    this.number = find("number");
    this.readout = find("readout");
    this.sides = { left: find("left-layer"), right: find("right-layer") };
    this.refine = find("refine");
    this.makeMethods(find("methods"));
    this.makeSides(find("swap"));
    this.slider.addEventListener("input", () => this.turn(knobs[state.method].stopAt(Number(this.slider.value))));
    this.slider.addEventListener("keydown", (event) => this.leap(event));
    this.number.addEventListener("change", () => this.turn(knobs[state.method].stop(Number(this.number.value))));
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
        this.viewSides();
      });
    }
    swap.addEventListener("click", () => {
      [state.left, state.right] = [state.right, state.left];
      this.viewSides();
    });
  }

  /** Offer the methods of a backbone, and what can be shown of them. */
  offer({ methods }) {
    this.methods.forEach((input, number) => (input.parentElement.hidden = !methods.includes(number)));
    this.methods[0].closest("div").hidden = methods.length < 2;
    for (const [side, select] of Object.entries(this.sides)) {
      for (const name of ["original", "gain"]) select.querySelector(`[value=${name}]`).hidden = reference() === null;
      if (reference() === null && ["original", "gain"].includes(state[side])) state[side] = "bicubic";
    }
  }

  viewSides() {
    for (const [side, select] of Object.entries(this.sides)) select.value = state[side];
    document.getElementById("legend").replaceChildren(...legendOf([state.left, state.right]));
    this.onView();
  }

  /** Show the controls of the state's method, and the curves of the state's image. */
  open() {
    const method = content.methods[state.method];
    const knob = knobs[state.method];
    this.offer(backboneOf(state.method));
    this.methods[state.method].checked = true;
    for (const [side, select] of Object.entries(this.sides)) {
      select.querySelector("[value=sr]").textContent = method.label;
      select.value = state[side];
    }
    document.getElementById("legend").replaceChildren(...legendOf([state.left, state.right]));
    document.getElementById("knob").hidden = !knob;
    document.getElementById("refine-label").hidden = method.unit !== "pixel";
    this.refine.checked = state.refine;
    if (knob) {
      document.getElementById("knob-name").textContent = `knob ${method.letter}`;
      this.slider.max = knob.track.length - 1;
      this.slider.value = knob.step(this.stop());
    }
    this.drawCurves();
  }

  drawCurves() {
    const image = content.images[state.image];
    this.base = reference() === null ? null : image.methods[reference()].points[0];
    const curves = backboneOf(state.method).methods.map((number) => {
      const { label, letter } = content.methods[number];
      return { label, letter, points: image.methods[number].points };
    });
    document.getElementById("own-caption").textContent = `This image: ${image.name}`;
    this.chart = new Chart(document.getElementById("own"), {
      series: seriesOf(curves, this.base),
      unit: this.base ? "executed FLOPs, % of the original" : "executed GFLOPs",
      base: this.base && this.base.psnr,
      onPick: ({ method, k }) => {
        const same = method === state.method;
        Object.assign(state, { method, k });
        if (same) this.turn(knobs[method].stop(k));
        else this.onMethod();
      },
    });
  }

  /** Return the stop of the state's knob; 0 for a method without one. */
  stop() {
    const knob = knobs[state.method];
    return knob ? knob.stop(state.k ?? content.methods[state.method].default) : 0;
  }

  turn(stop) {
    const knob = knobs[state.method];
    state.k = knob.value(stop);
    this.slider.value = knob.step(stop);
    this.onKnob();
  }

  /** Page Up and Page Down move a tenth of the way. */
  leap(event) {
    const by = { PageUp: 0.1, PageDown: -0.1 }[event.key];
    if (!by) return;
    event.preventDefault();
    const to = Number(this.slider.value) + Math.round(by * this.slider.max);
    this.slider.value = Math.min(Math.max(to, 0), this.slider.max);
    this.turn(knobs[state.method].stopAt(Number(this.slider.value)));
  }

  /** Show what was measured of an image composed at a stop, and return it. */
  show({ units, psnr }, stop, others) {
    const { costs } = content.images[state.image].methods[state.method];
    const flops = (convention) => units.reduce((sum, count, j) => sum + costs[convention].branch[j] * count, costs[convention].shared);
    const total = units.reduce((a, b) => a + b, 0);
    const measured = { psnr, units, flops: flops("paper"), engine: flops("engine") };
    const knob = knobs[state.method];
    const { letter } = content.methods[state.method];
    if (knob && document.activeElement !== this.number) this.number.value = knob.value(stop);
    const gflops = measured.engine / 1e9;
    const gain = this.base && state.method !== reference() ? `${signed(psnr - others.original, 2)} dB against the original` : "";
    const share = this.base ? (100 * gflops) / this.base.gflops : null;
    const rows = [
      ["PSNR", `${psnr.toFixed(2)} dB`, gain],
      ["FLOPs", share === null ? `${gflops.toPrecision(3)} G` : percent(share), `${gflops.toPrecision(3)} G executed; ${(measured.flops / 1e9).toPrecision(3)} G as the papers count`],
    ];
    if (knob) rows.push([content.methods[state.method].unit === "tile" ? "Tiles" : "Pixels", percent((100 * units.at(-1)) / total), "to the most expensive branch"]);
    this.readout.replaceChildren(...rows.flatMap(([name, value, note]) => {
      const cell = element("dd");
      cell.append(element("strong", "", value), element("small", "", note));
      return [element("dt", "", name), cell];
    }));
    if (knob) this.readout.append(sharesOf(units));
    const text = `${knob ? `${letter} = ${knob.value(stop)}, ` : ""}${psnr.toFixed(2)} dB, ${share === null ? `${gflops.toPrecision(3)} GFLOPs` : `${percent(share)} of the FLOPs`}`;
    this.slider.setAttribute("aria-valuetext", text);
    document.getElementById("brief").textContent = `${psnr.toFixed(2)} dB, ${share === null ? `${gflops.toPrecision(3)} G` : percent(share)}`;
    clearTimeout(this.speaking);
    this.speaking = setTimeout(() => (document.getElementById("spoken").textContent = text), 600);
    this.chart.mark({ x: share ?? gflops, y: psnr });
    return measured;
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

/** Return a bar of the branches' shares, cheapest first. */
function sharesOf(units) {
  const bar = element("div", "shares");
  const total = units.reduce((a, b) => a + b, 0);
  units.forEach((count, j) => {
    const part = element("span");
    part.style.flexGrow = count / total;
    part.style.background = branchColour(j, units.length);
    part.title = `branch ${j + 1} of ${units.length}: ${percent((100 * count) / total)}`;
    bar.append(part);
  });
  bar.setAttribute("role", "img");
  bar.setAttribute("aria-label", units.map((count, j) => `branch ${j + 1}: ${percent((100 * count) / total)}`).join(", "));
  return bar;
}

/** Return the colour of a branch, as on the map of the routing. */
function branchColour(branch, branches) {
  const stops = [[43, 108, 196], [240, 226, 170], [230, 85, 35]];
  const at = branches > 1 ? (2 * branch) / (branches - 1) : 2;
  const low = Math.min(Math.floor(at), 1);
  return `rgb(${stops[low].map((value, c) => Math.round(value + (at - low) * (stops[low + 1][c] - value))).join(" ")})`;
}

/** Return the legends of the maps among some layers. */
function legendOf(layers) {
  const bar = (className, low, high) => {
    const made = element("span", "scale");
    made.append(element("span", "", low), element("i", className), element("span", "", high));
    return made;
  };
  return [...new Set(layers)].flatMap((name) => {
    if (name === "error") return [bar("errors", "error 0", "40 levels or more")];
    if (name === "gain") return [bar("gains", "16 levels worse than the original", "16 better")];
    if (name === "routing") return [bar("branches", "cheapest branch", "most expensive")];
    return [];
  });
}
