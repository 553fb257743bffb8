// The answer, before any image: what each method saves and loses against the original.

const signed = (value, digits) => {
  const text = Math.abs(value).toFixed(digits);
  return (Number(text) === 0 ? "±" : value > 0 ? "+" : "−") + text;
};
const whole = (value) => value.toFixed(value < 10 ? 1 : 0);
const percent = (value) => `${whole(value)}\u00a0%`;

function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

/** Return the interval of an estimate [value, low, high] as text, or nothing. */
function interval([, low, high], text, unit) {
  return low === null ? "" : `95 %: ${text(low)} to ${text(high)}\u00a0${unit}`;
}

function tile(value, label, note, good) {
  const made = element("div", `tile ${good ? "good" : "bad"}`);
  made.append(element("strong", "", value), element("span", "", label));
  if (note) made.append(element("small", "", note));
  return made;
}

/** Return the tiles of a method: its FLOPs at the original's PSNR, and its default point. */
function cardOf(method) {
  const { gain, share, equal, close } = method.verdict;
  const card = element("section", "card");
  card.append(element("h2", "", method.label));
  const tiles = element("div", "tiles");
  const reaches = equal[0] !== null;
  const best = reaches ? equal : close;
  const label = reaches ? "of the original’s FLOPs at its PSNR" : "of the original’s FLOPs within 0.1 dB";
  const at = `at ${method.letter}\u00a0=\u00a0${method.default}`;
  const flops = (estimate, label) => tile(percent(estimate[0]), label, interval(estimate, whole, "%"), estimate[0] < 100);
  tiles.append(
    best[0] === null ? tile("—", "stays more than 0.1 dB below the original", "", false) : flops(best, label),
    tile(`${signed(gain[0], 2)}\u00a0dB`, `PSNR against the original, ${at}`, interval(gain, (value) => signed(value, 2), "dB"), gain[0] > -0.05),
    flops(share, `of its FLOPs, ${at}`),
  );
  card.append(tiles);
  return card;
}

/** Return the FLOPs at the original's PSNR, or else near it, to sort by: less is better. */
function needed({ verdict: { equal, close } }) {
  return equal[0] ?? 1e6 + (close[0] ?? 1e6);
}

/** Return the answer in a sentence. */
function answerOf(judged) {
  if (!judged.length) return "What each pixel costs, and what it gains.";
  const { label, verdict } = judged[0];
  if (verdict.equal[0] !== null) return `${label} reaches the original’s PSNR with ${percent(verdict.equal[0])} of its executed FLOPs.`;
  if (verdict.close[0] !== null) return `${label} comes within 0.1 dB of the original with ${percent(verdict.close[0])} of its executed FLOPs.`;
  return "No method comes within 0.1 dB of the original on these images.";
}

/** Draw a chart: FLOPs in percent of the original's, or in G without one. */
function chartOf(id, curves, base, onPick) {
  const unit = base ? "executed FLOPs, % of the original" : "executed GFLOPs";
  return new Chart(find(id), { series: seriesOf(curves, base), unit, base: base && base.psnr, onPick });
}

function seriesOf(curves, base) {
  const factor = base === null ? 1 : 100 / base.gflops;
  return curves.map(({ label, letter, points }) => ({
    name: label,
    line: points.length > 1,
    points: points
      .filter((point) => point.psnr !== null)
      .map((point) => ({
        x: factor * point.gflops,
        y: point.psnr,
        hollow: point.adaptive || Boolean(point.beaten),
        ...bandOf(point, base),
        text: textOf({ label, letter }, point, base, factor),
        pick: pickOf(label, point),
      }))
      .sort((a, b) => a.x - b.x),
  }));
}

/** Return the interval of a point's PSNR: the original's, plus that of the gain over it. */
function bandOf({ gain }, base) {
  if (!base || !gain || gain[1] === null) return {};
  return { low: base.psnr + gain[1], high: base.psnr + gain[2] };
}

function textOf({ label, letter }, point, base, factor) {
  const at = point.adaptive ? ", adaptive" : point.knob === null ? "" : `, ${letter} = ${point.knob}`;
  const flops = base === null ? `${point.gflops.toPrecision(3)} GFLOPs` : `${percent(factor * point.gflops)} of the FLOPs`;
  const sure = bandOf(point, base).low === undefined ? "" : `; gain ${signed(point.gain[0], 2)} dB (95 %: ${signed(point.gain[1], 2)} to ${signed(point.gain[2], 2)})`;
  return `${point.name ?? label}${at}: ${point.psnr.toFixed(2)} dB, ${flops}${sure}`;
}

/** Return what a click on a point shows, if the page holds its method. */
function pickOf(label, point) {
  const method = currentBackbone().methods.find((one) => content.methods[one].label === label);
  return method === undefined || point.knob === null ? undefined : { method, k: point.knob };
}

/** Fill the head of the page, of the backbone on show. */
function showVerdict(onPick) {
  const { images, scale, protocol, note, version, shave } = content;
  const { name, head } = currentBackbone();
  const lr = protocol.lr === "8bit" ? "8-bit LR" : "float LR";
  const set = (id, text) => (find(id).textContent = text);
  set("subject", [`${name} ×${scale}`, lr, head.source, head.training].filter(Boolean).join(" · "));
  set("overall-caption", `${head.source}: PSNR over executed FLOPs`);
  set("version", version);
  set("shave", shave);
  set("note", `Images in this page: ${images.length}, ${note}`);
  const judged = head.curves.filter((curve) => curve.verdict).sort((a, b) => needed(a) - needed(b));
  set("answer", answerOf(judged));
  find("cards").replaceChildren(...judged.map(cardOf));
  chartOf("overall", head.curves, head.base, onPick);
}
