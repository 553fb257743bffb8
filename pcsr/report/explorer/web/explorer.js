// The page: connects the worker, the stage, the panel and the address.

/** Ask the worker, which answers in order. */
class Composer {
  constructor() {
    const source = find("worker").textContent;
    this.worker = new Worker(URL.createObjectURL(new Blob([source], { type: "text/javascript" })));
    this.waiting = [];
    this.worker.onmessage = ({ data }) => {
      const { resolve, reject } = this.waiting.shift();
      if (data.failed) reject(new Error(data.failed));
      else resolve(data);
    };
  }

  ask(message, buffers = []) {
    return new Promise((resolve, reject) => {
      this.waiting.push({ resolve, reject });
      this.worker.postMessage(message, buffers);
    });
  }
}

class Explorer {
  constructor() {
    this.composer = new Composer();
    this.stage = new Stage(writeAddress);
    this.panel = new Panel({ onKnob: () => this.changed(), onMethod: () => this.open(), onView: () => this.viewed() });
    this.spare = [];
    this.busy = false;
    this.images = this.thumbnails();
    this.backbones = this.chooser();
    addEventListener("hashchange", ({ newURL }) => {
      readAddress(new URL(newURL).hash);
      this.open();
    });
  }

  /** Make a button for each image; their thumbnails come from the page's own planes. */
  thumbnails() {
    const buttons = content.images.map((image, number) => {
      const button = element("button");
      button.type = "button";
      const shown = element("img");
      shown.alt = "";
      shown.src = `data:image/png;base64,${find(`plane-${image.hr}`).textContent}`;
      button.append(shown, element("span", "", image.name));
      button.addEventListener("click", () => {
        state.image = number;
        this.open();
      });
      return button;
    });
    find("images").replaceChildren(...buttons);
    find("images").hidden = buttons.length < 2;
    return buttons;
  }

  /** Make a choice of the backbones, if there are several. */
  chooser() {
    const root = find("backbones");
    root.hidden = content.backbones.length < 2;
    return content.backbones.map(({ name }, number) =>
      choice(root, "backbone", name, () => {
        state.method = methodOf(number, currentMethod().label);
        this.open();
        writeAddress();
      }),
    );
  }

  /** Show the image and the method of the state. */
  async open() {
    const image = currentImage();
    const own = image.methods[state.method];
    this.images.forEach((button, number) => button.setAttribute("aria-pressed", number === state.image));
    const { backbone } = currentMethod();
    this.backbones[backbone].checked = true;
    if (this.backbone !== backbone) drawCharts();
    this.backbone = backbone;
    this.panel.open();
    if (this.opening?.image === image && this.opening.own === own) {
      this.viewed();
      return;
    }
    const opening = (this.opening = { image, own });
    this.stage.resize(image.width, image.height);
    const numbers = [image.hr, image.lr, ...own.images, ...(own.side || !own.ranks ? [] : own.ranks)];
    const original = reference();
    if (original !== null) numbers.push(...image.methods[original].images);
    const planes = Object.fromEntries(numbers.map((number) => [number, find(`plane-${number}`).textContent]));
    const { shave } = content;
    const answer = await this.composer.ask({ kind: "open", image, method: state.method, planes, shave, reference: original });
    if (this.opening !== opening) return;
    this.psnr = answer.psnr;
    this.spare = [];
    this.stage.update(answer.layers);
    for (const [name, psnr] of Object.entries(answer.psnr)) this.stage.caption(name, name === "hr" ? "" : `${psnr.toFixed(2)} dB`);
    this.changed();
  }

  /** Compose at the state's knob, unless the worker is at work: then once it has done. */
  async changed() {
    writeAddress();
    if (this.busy) {
      this.again = true;
      return;
    }
    this.busy = true;
    const { opening, spare } = this;
    this.spare = [];
    const { image, method, k, refine, left, right } = state;
    const stop = this.panel.stop();
    const frame = await this.composer.ask({ kind: "frame", stop, refine, layers: [left, right], spare }, spare);
    this.busy = false;
    // The worker composes the next frame while this one is drawn.
    if (this.again) {
      this.again = false;
      this.changed();
    }
    if (this.opening === opening) this.show(frame, stop, { image, method, k, refine });
  }

  /** Show a frame; the state may have moved on since it was requested. */
  show(frame, stop, request) {
    this.spare = this.stage.update(frame.layers);
    this.stage.caption("sr", `${frame.psnr.toFixed(2)} dB`);
    this.shown = { ...request, ...this.panel.show(frame, stop, this.psnr) };
    document.body.dataset.ready = "1";
  }

  /** Draw other sides of the wipe; those that the worker draws take a frame. */
  viewed() {
    this.stage.draw();
    this.changed();
  }
}

readAddress(location.hash);
const explorer = new Explorer();

/** Draw the charts at the width that there is. */
function drawCharts() {
  showVerdict(({ method, k }) => {
    Object.assign(state, { method, k });
    explorer.open();
    find("explorer").scrollIntoView({ behavior: "smooth" });
  });
}

explorer.open();
let width = innerWidth;
addEventListener("resize", () => {
  if (width === innerWidth) return; // a phone's bars come and go
  width = innerWidth;
  drawCharts();
  explorer.panel.drawCurves();
  explorer.changed();
});
