// Compose an image from its branches at a stop of the knob, smooth its seams, and measure it.
//
// A unit takes branch j or a more expensive one where its rank for j is above the stop; ranks fall
// as j rises, so that branches can be laid over each other, cheapest first. Images are
// RGBA in one 32-bit number per pixel, red in the lowest byte.

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

  /** Tell whether a pixel is measured. */
  counts(i) {
    const { width, height, shave } = this;
    const x = i % width;
    const y = (i - x) / width;
    return x >= shave && x < width - shave && y >= shave && y < height - shave;
  }

  /** Return the squared error of each pixel; 0 in the border. */
  errorsOf(image) {
    const { hr, width, height, shave } = this;
    const out = new Uint32Array(image.length);
    for (let y = shave; y < height - shave; y++) {
      const end = (y + 1) * width - shave;
      for (let i = y * width + shave; i < end; i++) out[i] = squared(image[i], hr[i]);
    }
    return out;
  }

  /** Return the summed squared error of an image. */
  errorOf(image) {
    return this.errorsOf(image).reduce((sum, error) => sum + error, 0);
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

  /** Write the image to `out`; return the number of units per branch and the squared error. */
  compose(stop, refine, out) {
    out.set(this.image);
    return { units: [1], error: this.error };
  }
}

/** A method that decides for each pixel. */
class ByPixel {
  constructor(branches, ranks, frame) {
    const { width, height } = frame;
    Object.assign(this, { branches, ranks, frame, width });
    this.errors = branches.map((branch) => frame.errorsOf(branch));
    this.error = frame.errorOf(branches[0]);
    // By how much the squared error of each pixel rises with each step to a more expensive branch.
    this.rises = ranks.map((_, j) => Int32Array.from(this.errors[j], (error, i) => this.errors[j + 1][i] - error));
    // The outermost ring of pixels is never smoothed: it reaches nothing.
    this.reach = ranks.map((plane) => withoutRing(largestAround(plane, width, height), width, height));
    this.labels = new Uint8Array(width * height);
    this.plain = new Uint32Array(width * height);
    this.seams = new Uint32Array(width * height);
  }

  /** Write the image to `out`; return the number of units per branch and the squared error. */
  compose(stop, refine, out) {
    const { branches, labels, plain, seams } = this;
    const units = [plain.length];
    let { error } = this;
    let count = 0;
    labels.fill(0);
    plain.set(branches[0]);
    this.ranks.forEach((rank, j) => {
      const [branch, reach, rise] = [branches[j + 1], this.reach[j], this.rises[j]];
      let above = 0;
      for (let i = 0; i < rank.length; i++) {
        if (rank[i] > stop) {
          plain[i] = branch[i];
          labels[i] = j + 1;
          error += rise[i];
          above++;
        } else if (reach[i] > stop && labels[i] === j) seams[count++] = i;
      }
      units[j] -= above;
      units.push(above);
    });
    out.set(plain);
    return { units, error: refine ? error + this.smooth(seams.subarray(0, count), out) : error };
  }

  /** Give pixels the mean around them, and return by how much the squared error rises. */
  smooth(seams, out) {
    const { labels, errors, plain, frame, width } = this;
    let change = 0;
    for (const i of seams) {
      out[i] = meanAround(plain, i, width);
      if (frame.counts(i)) change += squared(out[i], frame.hr[i]) - errors[labels[i]][i];
    }
    return change;
  }
}

function withoutRing(values, width, height) {
  values.fill(0, 0, width).fill(0, (height - 1) * width);
  for (let i = 0; i < values.length; i += width) values[i] = values[i + width - 1] = 0;
  return values;
}

function meanAround(image, i, width) {
  let red = 0;
  let green = 0;
  let blue = 0;
  for (let row = i - width; row <= i + width; row += width) {
    for (let at = row - 1; at <= row + 1; at++) {
      const value = image[at];
      red += value & 255;
      green += (value >> 8) & 255;
      blue += (value >> 16) & 255;
    }
  }
  const rounded = (sum) => Math.floor(sum / 9 + 0.5);
  return (255 << 24) | (rounded(blue) << 16) | (rounded(green) << 8) | rounded(red);
}

/** A method that decides for each tile; where tiles overlap, their values are averaged. */
class ByTile {
  /** `tiles` holds {side, rows, columns}: where tiles start, in pixels of the image. */
  constructor(branches, ranks, tiles, frame) {
    const { width, height } = frame;
    Object.assign(this, { branches, ranks, tiles, frame, width, height });
    this.labels = new Uint8Array(width * height);
    this.sums = new Uint16Array(3 * width * height);
    this.covered = new Uint8Array(width * height);
    this.each((tile, i) => this.covered[i]++);
    this.nearRows = this.nearest(tiles.rows, height);
    this.nearColumns = this.nearest(tiles.columns, width);
  }

  /** Write the image to `out`; return the number of units per branch and the squared error. */
  compose(stop, refine, out) {
    const labelOf = this.ranks[0].map((_, tile) => this.ranks.filter((plane) => plane[tile] > stop).length);
    const units = new Array(this.branches.length).fill(0);
    for (const label of labelOf) units[label]++;
    const { sums, covered, labels, width, height } = this;
    sums.fill(0);
    this.each((tile, i, from) => {
      const value = this.branches[labelOf[tile]][from];
      sums[3 * i] += value & 255;
      sums[3 * i + 1] += (value >> 8) & 255;
      sums[3 * i + 2] += (value >> 16) & 255;
    });
    for (let i = 0; i < out.length; i++) {
      const mean = (channel) => Math.floor(sums[3 * i + channel] / covered[i] + 0.5);
      out[i] = (255 << 24) | (mean(2) << 16) | (mean(1) << 8) | mean(0);
    }
    for (let y = 0, i = 0; y < height; y++) {
      const line = this.nearRows[y] * this.tiles.columns.length;
      for (let x = 0; x < width; x++, i++) labels[i] = labelOf[line + this.nearColumns[x]];
    }
    return { units, error: this.frame.errorOf(out) };
  }

  /** Call `work(tile, pixel of the image, pixel of the stacked tiles)` for all pixels of all tiles. */
  each(work) {
    const { side, rows, columns } = this.tiles;
    rows.forEach((top, row) => {
      columns.forEach((left, column) => {
        const tile = row * columns.length + column;
        for (let y = top; y < Math.min(top + side, this.height); y++) {
          for (let x = left; x < Math.min(left + side, this.width); x++) {
            work(tile, y * this.width + x, (tile * side + y - top) * side + x - left);
          }
        }
      });
    });
  }

  /** Return for each pixel of an axis the tile whose centre is nearest. */
  nearest(origins, length) {
    return Array.from({ length }, (_, pixel) => {
      const distance = origins.map((origin) => Math.abs(pixel + 0.5 - origin - this.tiles.side / 2));
      return distance.indexOf(Math.min(...distance));
    });
  }
}
