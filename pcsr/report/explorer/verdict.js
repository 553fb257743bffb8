// The answer, before any image: what each method saves and loses against the original.

const signed = (value, digits) => (value > 0 ? "+" : value < 0 ? "−" : "±") + Math.abs(value).toFixed(digits);
const plain = (value, digits) => (value < 0 ? "−" : "") + Math.abs(value).toFixed(digits);
const percent = (value) => `${value.toFixed(value < 10 ? 1 : 0)} %`;

function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

/** Return the knob's letter: k for cost ratios, eta for methods that weigh PSNR. */
function letterOf({ label }) {
  return /^(ARM|ENAF)/.test(label) ? "η" : "k";
}

/** Return the interval of an estimate [value, low, high] as text, or nothing. */
function interval([, low, high], text) {
  return low === null ? "" : `95 %: ${text(low)} to ${text(high)}`;
}

function tile(value, label, note, kind) {
  const made = element("div", `tile ${kind}`);
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
  if (best[0] === null) tiles.append(tile("—", "stays more than 0.1 dB below the original", "", "bad"));
  else tiles.append(tile(percent(best[0]), label, interval(best, percent), best[0] < 100 ? "good" : "bad"));
  const at = `at ${letterOf(method)} = ${method.default}`;
  const decibels = (value) => `${signed(value, 2)} dB`;
  tiles.append(tile(decibels(gain[0]), `PSNR against the original, ${at}`, interval(gain, decibels), gain[0] > -0.05 ? "good" : "bad"));
  tiles.append(tile(percent(share[0]), `of its FLOPs, ${at}`, interval(share, percent), share[0] < 100 ? "good" : "bad"));
  card.append(tiles);
  return card;
}

/** Return the answer in a sentence. */
function answerOf(methods) {
  const judged = methods.filter((method) => method.verdict);
  const reaching = judged.filter((method) => method.verdict.equal[0] !== null);
  const cheapest = (list, key) => list.reduce((a, b) => (b.verdict[key][0] < a.verdict[key][0] ? b : a));
  if (reaching.length) {
    const best = cheapest(reaching, "equal");
    return `${best.label} reaches the original’s PSNR with ${percent(best.verdict.equal[0])} of its FLOPs.`;
  }
  const close = judged.filter((method) => method.verdict.close[0] !== null);
  if (close.length) {
    const best = cheapest(close, "close");
    return `${best.label} comes within 0.1 dB of the original with ${percent(best.verdict.close[0])} of its FLOPs.`;
  }
  return judged.length ? "No method comes within 0.1 dB of the original on these images." : "What each pixel costs, and what it gains.";
}

/** Return the series of a chart: FLOPs in percent of the original's, or in G without one. */
function seriesOf(curves, base) {
  const factor = base === null ? 1 : 100 / base.gflops;
  return curves.map(({ label, points }) => ({
    name: label,
    line: points.length > 1,
    points: points
      .filter((point) => point.psnr !== null)
      .map((point) => ({ x: factor * point.gflops, y: point.psnr, hollow: point.adaptive, ...bandOf(point, base), text: textOf(label, point, base, factor), pick: pickOf(label, point) }))
      .sort((a, b) => a.x - b.x),
  }));
}

/** Return the interval of a point's PSNR: the original's, plus that of the gain over it. */
function bandOf({ gain }, base) {
  if (!base || !gain || gain[1] === null) return {};
  return { low: base.psnr + gain[1], high: base.psnr + gain[2] };
}

function textOf(label, point, base, factor) {
  const at = point.adaptive ? ", adaptive" : point.knob === null ? "" : `, ${letterOf({ label })} = ${point.knob}`;
  const flops = base === null ? `${point.gflops.toPrecision(3)} GFLOPs` : `${percent(factor * point.gflops)} of the FLOPs`;
  const sure = bandOf(point, base).low === undefined ? "" : `; gain ${signed(point.gain[0], 2)} dB (95 %: ${signed(point.gain[1], 2)} to ${signed(point.gain[2], 2)})`;
  return `${label}${at}: ${point.psnr.toFixed(2)} dB, ${flops}${sure}`;
}

/** Return what a click on a point shows, if the page holds its method. */
function pickOf(label, point) {
  const method = content.methods.findIndex((one) => one.label === label);
  return method < 0 || point.knob === null ? undefined : { method, k: point.knob };
}

/** Fill the head of the page. */
function showVerdict(onPick) {
  const { head, images, backbones, scale, protocol, note, version, shave } = content;
  const lr = protocol.lr === "8bit" ? "8-bit LR" : "float LR";
  const set = (id, text) => (document.getElementById(id).textContent = text);
  set("subject", `${backbones.map((name) => name.toUpperCase()).join(", ")} ×${scale} · ${lr} · ${head.source}`);
  set("answer", answerOf(head.curves));
  set("overall-caption", `${head.source}: PSNR over FLOPs`);
  set("version", version);
  set("shave", shave);
  set("note", `Images in this page: ${images.length}, ${note}`);
  const judged = head.curves.filter((curve) => curve.verdict);
  document.getElementById("cards").replaceChildren(...judged.map(cardOf));
  new Chart(document.getElementById("overall"), {
    series: seriesOf(head.curves, head.base),
    unit: head.base ? "FLOPs, % of the original" : "GFLOPs",
    base: head.base && head.base.psnr,
    onPick,
  });
}
