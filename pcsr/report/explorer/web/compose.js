// Compose an image from its branches at a stop of the knob, smooth its seams, and measure it.
//
// A unit takes branch j or a more expensive one where its rank for j is above the stop; ranks fall
// as j rises. A method keeps what it has composed, and at the next stop changes only what differs:
// while the slider is dragged, that is little. Squared errors are whole numbers, so that their sum
// can follow without rounding. Images are RGBA in one 32-bit number per pixel, red in the lowest byte.

/** Return 32-bit pixels of {width, height, data}, 8-bit RGB. */
function packed({ width, height, data }) {
  const out = new Uint32Array(width * height);
  for (let i = 0, j = 0; i < out.length; i++, j += 3) {
    out[i] = (255 << 24) | (data[j + 2] << 16) | (data[j + 1] << 8) | data[j];
  }
  return out;
}

/** Return the squared difference of two pixels, summed over the channels. */
function squared(a, b) {
  const red = (a & 255) - (b & 255);
  const green = ((a >> 8) & 255) - ((b >> 8) & 255);
  const blue = ((a >> 16) & 255) - ((b >> 16) & 255);
  return red * red + green * green + blue * blue;
}

/** HR, and what is measured against it: all but a border of `shave` pixels. */
class Frame {
  constructor(hr, width, height, shave) {
    Object.assign(this, { hr, width, height, shave });
  }

  /** Tell whether a column, or a row, of an axis of this length is measured. */
  counts(at, length) {
    return at >= this.shave && at < length - this.shave;
  }

  /** Return the summed squared error of an image; of a part of it, if rows and columns are given. */
  errorOf(image, rows = this.inner(this.height), columns = this.inner(this.width)) {
    const { hr, width } = this;
    let sum = 0;
    for (let y = rows.start; y < rows.end; y++) {
      const end = y * width + columns.end;
      for (let i = y * width + columns.start; i < end; i++) sum += squared(image[i], hr[i]);
    }
    return sum;
  }

  /** Return what is measured of an axis. */
  inner(length) {
    return { start: this.shave, end: length - this.shave };
  }

  /** Return the PSNR in dB of a summed squared error. */
  psnrOf(error) {
    const values = 3 * (this.width - 2 * this.shave) * (this.height - 2 * this.shave);
    return 10 * Math.log10((255 * 255 * values) / error);
  }
}

/** Return the largest of each value and its eight neighbours. */
function largestAround(values, width, height) {
  const rows = new Uint16Array(values.length);
  const out = new Uint16Array(values.length);
  for (let y = 0; y < height; y++) {
    const first = y * width;
    const last = first + width - 1;
    for (let i = first; i <= last; i++) {
      rows[i] = Math.max(values[i], values[Math.max(first, i - 1)], values[Math.min(last, i + 1)]);
    }
  }
  for (let i = 0; i < out.length; i++) {
    const above = i < width ? i : i - width;
    const below = i + width < out.length ? i + width : i;
    out[i] = Math.max(rows[i], rows[above], rows[below]);
  }
  return out;
}

/** A method that decides nothing. */
class Whole {
  constructor(image, frame) {
    this.image = image;
    this.labels = new Uint8Array(image.length);
    this.error = frame.errorOf(image);
  }

  /** Return the number of units per branch and the squared error. */
  compose() {
    return { units: [1], error: this.error };
  }
}

/** A method that decides for each pixel. */
class ByPixel {
  constructor(branches, ranks, frame) {
    const { width, height } = frame;
    Object.assign(this, { branches, ranks, frame });
    // The outermost ring of pixels is never smoothed: it reaches nothing.
    this.reach = ranks.map((plane) => withoutRing(largestAround(plane, width, height), width, height));
    // At the cheapest stop, beyond all ranks, everything is as the cheapest branch has it.
    this.stop = 65535;
    this.refine = false;
    this.image = branches[0].slice();
    this.plain = branches[0].slice(); // before smoothing
    this.labels = new Uint8Array(width * height);
    this.units = branches.map((_, j) => (j ? 0 : width * height));
    this.error = frame.errorOf(this.image);
    // Pixels to be drawn anew. With a margin on all sides: pixel i is at i + width + 1, and its
    // upper left neighbour at i, so that neighbours need no test whether there are any.
    this.stale = new Uint8Array(width * (height + 2) + 2);
  }

  /** Compose `image`; return the number of units per branch and the squared error. */
  compose(stop, refine) {
    if (refine !== this.refine) this.stale.fill(1);
    this.ranks.forEach((rank, j) => this.turn(rank, j, stop));
    Object.assign(this, { stop, refine });
    this.draw();
    return { units: [...this.units], error: this.error };
  }

  /** Move the pixels whose rank lies between the stops from branch j to the next one, or back. */
  turn(rank, j, stop) {
    const { branches, labels, plain, stale } = this;
    const { width } = this.frame;
    const low = Math.min(stop, this.stop);
    const high = Math.max(stop, this.stop);
    const by = stop < this.stop ? 1 : -1;
    const between = high - low;
    let moved = 0;
    for (let i = 0; i < rank.length; i++) {
      // Unless low < rank <= high. One comparison: processors would guess wrong which of two ends it.
      if ((rank[i] - low - 1) >>> 0 >= between) continue;
      moved++;
      labels[i] += by;
      plain[i] = branches[labels[i]][i];
      stale[i] = stale[i + 1] = stale[i + 2] = 1;
      stale[i + width] = stale[i + width + 1] = stale[i + width + 2] = 1;
      stale[i + 2 * width] = stale[i + 2 * width + 1] = stale[i + 2 * width + 2] = 1;
    }
    this.units[j] -= by * moved;
    this.units[j + 1] += by * moved;
  }

  /** Draw stale pixels: smoothed, if a neighbour takes a more expensive branch. */
  draw() {
    const { image, plain, labels, reach, stale, stop, refine, frame } = this;
    const { hr, width, height } = frame;
    let rise = 0; // of the squared error
    for (let y = 0, i = 0; y < height; y++) {
      const row = frame.counts(y, height);
      for (let x = 0; x < width; x++, i++) {
        if (!stale[i + width + 1]) continue;
        stale[i + width + 1] = 0;
        const label = labels[i];
        const seam = refine && label < reach.length && reach[label][i] > stop;
        const value = seam ? meanAround(plain, i, width) : plain[i];
        if (value === image[i]) continue;
        if (row && frame.counts(x, width)) rise += squared(value, hr[i]) - squared(image[i], hr[i]);
        image[i] = value;
      }
    }
    this.error += rise;
  }
}

function withoutRing(values, width, height) {
  values.fill(0, 0, width).fill(0, (height - 1) * width);
  for (let i = 0; i < values.length; i += width) values[i] = values[i + width - 1] = 0;
  return values;
}

// Means are looked up: row n has the rounded mean of n values by their sum. There are at most nine:
// pixels around one, or tiles, of which no more than three lie over a row or a column of pixels.
const MEANS = Array.from({ length: 10 }, (_, count) => Uint8Array.from({ length: 255 * count + 1 }, (_, sum) => Math.floor(sum / count + 0.5)));

/** Return the mean of pixels: of their summed green, and their red and blue, summed as 16 bits each. */
function mean(means, redBlue, green) {
  return ((255 << 24) | (means[redBlue >>> 16] << 16) | (means[green] << 8) | means[redBlue & 65535]) >>> 0;
}

function meanAround(image, i, width) {
  let redBlue = 0;
  let green = 0;
  for (let at = i - width; at <= i + width; at += width) {
    const left = image[at - 1];
    const middle = image[at];
    const right = image[at + 1];
    redBlue += (left & 0xff00ff) + (middle & 0xff00ff) + (right & 0xff00ff);
    green += ((left & 0xff00) + (middle & 0xff00) + (right & 0xff00)) >> 8;
  }
  return mean(MEANS[9], redBlue, green);
}

/** A method that decides for each tile; where tiles overlap, their values are averaged. */
class ByTile {
  /** `tiles` holds {side, rows, columns}: where tiles start, in pixels of the image. */
  constructor(branches, ranks, tiles, frame) {
    const { width, height } = frame;
    Object.assign(this, { branches, ranks, tiles, frame });
    this.image = new Uint32Array(width * height);
    this.labels = new Uint8Array(width * height);
    this.error = 0;
    const columns = this.stretches(tiles.columns, width);
    this.cells = this.stretches(tiles.rows, height).flatMap((rows) => columns.map((columns) => this.cell(rows, columns)));
    this.labelOf = null; // of each tile
  }

  /** Cut an axis where other tiles cover it, another one is nearest, or what is measured begins or ends. */
  stretches(origins, length) {
    const { side } = this.tiles;
    const out = [];
    let before = null;
    for (let at = 0; at < length; at++) {
      const tiles = [...origins.keys()].filter((tile) => origins[tile] <= at && at < origins[tile] + side);
      const distance = origins.map((origin) => Math.abs(at + 0.5 - origin - side / 2));
      const made = { tiles, nearest: distance.indexOf(Math.min(...distance)), counts: this.frame.counts(at, length) };
      const same = JSON.stringify(made);
      if (same !== before) out.push({ ...made, start: at });
      out.at(-1).end = at + 1;
      before = same;
    }
    return out;
  }

  /** Return a part of the image that is composed as a whole: its tiles, and where it begins in each. */
  cell(rows, columns) {
    const { side, ...origins } = this.tiles;
    const number = (row, column) => row * origins.columns.length + column;
    const parts = rows.tiles.flatMap((row) =>
      columns.tiles.map((column) => {
        const tile = number(row, column);
        return { tile, from: (tile * side + rows.start - origins.rows[row]) * side + columns.start - origins.columns[column] };
      }),
    );
    return { rows, columns, parts, nearest: number(rows.nearest, columns.nearest), error: 0 };
  }

  /** Compose `image`; return the number of units per branch and the squared error. */
  compose(stop) {
    const before = this.labelOf;
    const labelOf = (this.labelOf = this.ranks[0].map((_, tile) => this.ranks.filter((plane) => plane[tile] > stop).length));
    for (const cell of this.cells) {
      if (!before || cell.parts.some(({ tile }) => labelOf[tile] !== before[tile])) this.draw(cell);
    }
    const units = new Array(this.branches.length).fill(0);
    for (const label of labelOf) units[label]++;
    return { units, error: this.error };
  }

  draw(cell) {
    const { branches, labelOf, image, labels, frame } = this;
    const { rows, columns, parts } = cell;
    const sources = parts.map(({ tile }) => branches[labelOf[tile]]);
    const means = MEANS[parts.length];
    for (let y = rows.start; y < rows.end; y++) {
      const first = y * frame.width + columns.start;
      const last = y * frame.width + columns.end;
      labels.fill(labelOf[cell.nearest], first, last);
      const from = parts.map((part) => part.from + (y - rows.start) * this.tiles.side - first);
      for (let i = first; i < last; i++) {
        let redBlue = 0;
        let green = 0;
        for (let k = 0; k < sources.length; k++) {
          const value = sources[k][from[k] + i];
          redBlue += value & 0xff00ff;
          green += (value >> 8) & 255;
        }
        image[i] = mean(means, redBlue, green);
      }
    }
    if (!rows.counts || !columns.counts) return;
    const error = frame.errorOf(image, rows, columns);
    this.error += error - cell.error;
    cell.error = error;
  }
}
