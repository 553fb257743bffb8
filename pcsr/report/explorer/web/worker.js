// The worker: decodes images, composes, measures and draws maps, off the page's own thread.
//
// "open" {image, planes, shave, reference, branches}: decode what a method has of an image.
// "frame" {stop, refine, layers, spare}: compose it; `spare` are buffers to use again.

let scene = null;
let decoded = new Map(); // number of a plane -> its decoded values, for the image on show

async function plane(number, planes) {
  if (!decoded.has(number)) decoded.set(number, await decodePng(bytesOf(planes[number])));
  return decoded.get(number);
}

async function opened({ image, method, planes, shave, reference }) {
  const wanted = new Set(Object.keys(planes).map(Number));
  decoded = new Map([...decoded].filter(([number]) => wanted.has(number)));
  const { width, height } = image;
  const load = async (number) => packed(await plane(number, planes));
  const hr = await load(image.hr);
  const original = reference === null ? null : await load(image.methods[reference].images[0]);
  const own = image.methods[method];
  const branches = await Promise.all(own.images.map(load));
  const measure = new Frame(hr, width, height, shave);
  scene = { measure, original, routing: await routing(own, branches, planes, measure) };
  const layers = { hr: new Uint8ClampedArray(hr.slice().buffer), bicubic: enlarged(await plane(image.lr, planes), width, height) };
  if (original) layers.original = new Uint8ClampedArray(original.slice().buffer);
  const psnrs = Object.entries(layers).map(([name, layer]) => [name, measure.psnrOf(measure.errorOf(new Uint32Array(layer.buffer)))]);
  return { layers, psnr: Object.fromEntries(psnrs) };
}

async function routing(own, branches, planes, measure) {
  if (!own.ranks) return new Whole(branches[0], measure);
  if (own.side) return new ByTile(branches, own.ranks, own, measure);
  const ranks = await Promise.all(own.ranks.map(async (number) => (await plane(number, planes)).data));
  return new ByPixel(branches, ranks, measure);
}

function frame({ stop, refine, layers, spare }) {
  const { measure, original, routing: method } = scene;
  const size = 4 * measure.hr.length;
  const usable = spare.filter((buffer) => buffer.byteLength === size);
  const fresh = () => new Uint32Array(usable.pop() ?? new ArrayBuffer(size));
  const { units, error } = method.compose(stop, refine);
  const sr = fresh();
  sr.set(method.image);
  const drawn = { sr };
  if (layers.includes("routing")) drawRouting(sr, method.labels, units.length, (drawn.routing = fresh()));
  if (layers.includes("error")) drawError(sr, measure.hr, (drawn.error = fresh()));
  if (layers.includes("gain") && original) drawGain(sr, original, measure.hr, (drawn.gain = fresh()));
  const rgba = Object.fromEntries(Object.entries(drawn).map(([name, pixels]) => [name, new Uint8ClampedArray(pixels.buffer)]));
  return { layers: rgba, units, psnr: measure.psnrOf(error) };
}

async function answer(data) {
  try {
    const made = data.kind === "open" ? await opened(data) : frame(data);
    const buffers = Object.values(made.layers).map((layer) => layer.buffer);
    postMessage(made, buffers);
  } catch (error) {
    postMessage({ failed: String(error) });
  }
}

// One after the other: a frame that is requested while an image is decoded is a frame of it.
let queue = Promise.resolve();
onmessage = ({ data }) => {
  queue = queue.then(() => answer(data));
};
