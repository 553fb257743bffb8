// Decode the PNG files of a page: 8-bit RGB and 16-bit grey, without interlacing.
//
// The browser's own decoder would pass through a canvas, where colour management, or protection
// from fingerprinting, may change values. These are the values that were stored.

/** Return the bytes of a base64 string. */
function bytesOf(base64) {
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
}

/** Return {width, height, data}: bytes of RGB, or 16-bit values of one channel. */
async function decodePng(bytes) {
  const view = new DataView(bytes.buffer);
  const packed = [];
  let header = null;
  for (let at = 8; at < bytes.length; ) {
    const length = view.getUint32(at);
    const kind = String.fromCharCode(...bytes.subarray(at + 4, at + 8));
    if (kind === "IHDR") header = { width: view.getUint32(at + 8), height: view.getUint32(at + 12), depth: bytes[at + 16], colour: bytes[at + 17] };
    if (kind === "IDAT") packed.push(bytes.subarray(at + 8, at + 8 + length));
    at += 12 + length;
  }
  const { width, height, depth, colour } = header;
  const rgb = depth === 8 && colour === 2;
  if (!rgb && !(depth === 16 && colour === 0)) throw new Error(`PNG of depth ${depth}, colour type ${colour}`);
  const inflated = new Blob(packed).stream().pipeThrough(new DecompressionStream("deflate"));
  const filtered = new Uint8Array(await new Response(inflated).arrayBuffer());
  const plain = unfiltered(filtered, height, width * (rgb ? 3 : 2), rgb ? 3 : 2);
  if (rgb) return { width, height, data: plain };
  const values = new Uint16Array(width * height);
  for (let i = 0; i < values.length; i++) values[i] = (plain[2 * i] << 8) | plain[2 * i + 1];
  return { width, height, data: values };
}

/** Undo the filter of every row (PNG specification, section 9). */
function unfiltered(source, height, stride, step) {
  const out = new Uint8Array(height * stride);
  for (let row = 0, from = 0, to = 0; row < height; row++, to += stride) {
    const kind = source[from++];
    for (let x = 0; x < stride; x++, from++) {
      const left = x >= step ? out[to + x - step] : 0;
      const above = row ? out[to + x - stride] : 0;
      const corner = row && x >= step ? out[to + x - stride - step] : 0;
      out[to + x] = source[from] + predicted(kind, left, above, corner);
    }
  }
  return out;
}

function predicted(kind, left, above, corner) {
  if (kind === 0) return 0;
  if (kind === 1) return left;
  if (kind === 2) return above;
  if (kind === 3) return (left + above) >> 1;
  const sum = left + above - corner;
  const byLeft = Math.abs(sum - left);
  const byAbove = Math.abs(sum - above);
  const byCorner = Math.abs(sum - corner);
  if (byLeft <= byAbove && byLeft <= byCorner) return left;
  return byAbove <= byCorner ? above : corner;
}
