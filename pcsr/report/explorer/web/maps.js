// Maps over an image: which branch computed a pixel, its error, and its gain over the original.

const LARGEST_ERROR = 40; // levels of 8 bits at which the map of errors saturates
const LARGEST_GAIN = 16;

/** Return [r, g, b] between the stops of a ramp, at 0..1. */
function ramp(stops, at) {
  const place = Math.min(Math.max(at, 0), 1) * (stops.length - 1);
  const low = Math.min(Math.floor(place), stops.length - 2);
  return stops[low].map((value, c) => value + (place - low) * (stops[low + 1][c] - value));
}

const BRANCHES = [[43, 108, 196], [240, 226, 170], [230, 85, 35]]; // cheapest to most expensive
const ERRORS = [[8, 8, 16], [84, 18, 110], [203, 65, 73], [249, 160, 40], [252, 255, 190]];
const GAINS = [[196, 60, 130], [60, 30, 50], [14, 16, 22], [14, 62, 60], [40, 205, 165]]; // loss to gain

function table(stops) {
  return Uint32Array.from({ length: 256 }, (_, i) => {
    const [red, green, blue] = ramp(stops, i / 255).map(Math.round);
    return (255 << 24) | (blue << 16) | (green << 8) | red;
  });
}

const ERROR_COLOURS = table(ERRORS);
const GAIN_COLOURS = table(GAINS);

/** Return the mean absolute difference of two pixels over the channels. */
function difference(a, b) {
  return (
    (Math.abs((a & 255) - (b & 255)) +
      Math.abs(((a >> 8) & 255) - ((b >> 8) & 255)) +
      Math.abs(((a >> 16) & 255) - ((b >> 16) & 255))) /
    3
  );
}

/** Colour each pixel by its branch, over the greyed image. */
function drawRouting(image, labels, branches, out) {
  const colours = Array.from({ length: branches }, (_, j) => ramp(BRANCHES, branches > 1 ? j / (branches - 1) : 1));
  for (let i = 0; i < out.length; i++) {
    const value = image[i];
    const grey = 0.45 * (((value & 255) + ((value >> 8) & 255) + ((value >> 16) & 255)) / 3);
    const [red, green, blue] = colours[labels[i]];
    out[i] = (255 << 24) | ((grey + 0.55 * blue) << 16) | ((grey + 0.55 * green) << 8) | (grey + 0.55 * red);
  }
}

/** Draw the mean absolute error of each pixel. */
function drawError(image, hr, out) {
  for (let i = 0; i < out.length; i++) {
    const error = difference(image[i], hr[i]);
    out[i] = ERROR_COLOURS[Math.min(255, (255 * error) / LARGEST_ERROR) | 0];
  }
}

/** Draw by how much the error of each pixel is smaller than the original's. */
function drawGain(image, original, hr, out) {
  for (let i = 0; i < out.length; i++) {
    const gain = difference(original[i], hr[i]) - difference(image[i], hr[i]);
    out[i] = GAIN_COLOURS[Math.min(255, Math.max(0, 127.5 * (1 + gain / LARGEST_GAIN))) | 0];
  }
}
