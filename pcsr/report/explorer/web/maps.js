// Maps over an image: which branch computed a pixel, its error, and its gain over the original.

const LARGEST_ERROR = 40; // levels of 8 bits at which the map of errors saturates
const LARGEST_GAIN = 16;

/** Return [r, g, b] between the stops of a ramp, at 0..1. */
function ramp(stops, at) {
  const place = Math.min(Math.max(at, 0), 1) * (stops.length - 1);
  const low = Math.min(Math.floor(place), stops.length - 2);
  return stops[low].map((value, c) => value + (place - low) * (stops[low + 1][c] - value));
}

const BRANCHES = [[65, 103, 173], [255, 254, 190], [204, 38, 39]]; // cheapest to most expensive, as in figures
const ERRORS = [[8, 8, 16], [84, 18, 110], [203, 65, 73], [249, 160, 40], [252, 255, 190]];
const GAINS = [[196, 60, 130], [60, 30, 50], [14, 16, 22], [14, 62, 60], [40, 205, 165]]; // loss to gain

/** Return [r, g, b] of a branch. */
const branchColour = (branch, branches) => ramp(BRANCHES, branches > 1 ? branch / (branches - 1) : 1);

/** Return the 32-bit pixel of [r, g, b]. */
function pixelOf(colour) {
  const [red, green, blue] = colour.map(Math.round);
  return (255 << 24) | (blue << 16) | (green << 8) | red;
}

// What is mapped is a sum over the channels, a whole number: all colours are computed once, and looked up.
const LARGEST_SUM = 3 * 255;
const SUMS = Array.from({ length: LARGEST_SUM + 1 }, (_, sum) => sum);
const ERROR_COLOURS = Uint32Array.from(SUMS, (sum) => pixelOf(ramp(ERRORS, sum / 3 / LARGEST_ERROR)));
// From the largest loss to the largest gain: no change is in the middle.
const GAIN_COLOURS = Uint32Array.from([...SUMS.slice(1).map((sum) => -sum).reverse(), ...SUMS], (sum) =>
  pixelOf(ramp(GAINS, 0.5 + sum / 3 / LARGEST_GAIN / 2)),
);

/** Return the absolute difference of two pixels, summed over the channels. */
function difference(a, b) {
  return (
    Math.abs((a & 255) - (b & 255)) +
    Math.abs(((a >> 8) & 255) - ((b >> 8) & 255)) +
    Math.abs(((a >> 16) & 255) - ((b >> 16) & 255))
  );
}

/** Colour each pixel by its branch, over the greyed image. */
function drawRouting(image, labels, branches, out) {
  const tints = Array.from({ length: branches }, (_, j) => branchColour(j, branches));
  const colours = Uint32Array.from(
    tints.flatMap((tint) => SUMS.map((sum) => pixelOf(tint.map((value) => (0.4 * sum) / 3 + 0.6 * value)))),
  );
  for (let i = 0; i < out.length; i++) {
    const value = image[i];
    out[i] = colours[labels[i] * SUMS.length + (value & 255) + ((value >> 8) & 255) + ((value >> 16) & 255)];
  }
}

/** Draw the absolute error of each pixel. */
function drawError(image, hr, out) {
  for (let i = 0; i < out.length; i++) out[i] = ERROR_COLOURS[difference(image[i], hr[i])];
}

/** Draw by how much the error of each pixel is smaller than the original's. */
function drawGain(image, original, hr, out) {
  for (let i = 0; i < out.length; i++) {
    out[i] = GAIN_COLOURS[LARGEST_SUM + difference(original[i], hr[i]) - difference(image[i], hr[i])];
  }
}
