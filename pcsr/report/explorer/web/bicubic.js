// Enlarge LR as MATLAB's bicubic imresize does: cubic convolution with a = -0.5, borders reflected.

/** Return for each of `size` pixels of an axis its four source pixels and their weights. */
function taps(length, size) {
  const near = (x) => (1.5 * x - 2.5) * x * x + 1;
  const far = (x) => ((-0.5 * x + 2.5) * x - 4) * x + 2;
  return Array.from({ length: size }, (_, i) => {
    const centre = ((i + 0.5) * length) / size - 0.5;
    const first = Math.floor(centre) - 1;
    return [0, 1, 2, 3].map((k) => {
      const distance = Math.abs(centre - first - k);
      const wrapped = (first + k + 2 * length) % (2 * length);
      return [wrapped < length ? wrapped : 2 * length - 1 - wrapped, distance <= 1 ? near(distance) : far(distance)];
    });
  });
}

/** Return RGBA of {width, height, data}, enlarged to a width and a height. */
function enlarged(image, width, height) {
  const across = new Float32Array(width * image.height * 3);
  const columns = taps(image.width, width);
  for (let y = 0; y < image.height; y++) {
    for (let x = 0; x < width; x++) {
      for (let c = 0; c < 3; c++) {
        let sum = 0;
        for (const [from, weight] of columns[x]) sum += weight * image.data[(y * image.width + from) * 3 + c];
        across[(y * width + x) * 3 + c] = sum;
      }
    }
  }
  const out = new Uint8ClampedArray(width * height * 4).fill(255);
  const rows = taps(image.height, height);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      for (let c = 0; c < 3; c++) {
        let sum = 0;
        for (const [from, weight] of rows[y]) sum += weight * across[(from * width + x) * 3 + c];
        out[(y * width + x) * 4 + c] = Math.floor(sum + 0.5);
      }
    }
  }
  return out;
}
