/**
 * The model's declared preprocessing in JavaScript: the same arithmetic, in float32, as every measurement used.
 */

/**
 * Pixels as the model's input: `(pixel * scale - mean) / std` per channel, float32 [batch, channels, height, width].
 *
 * @param {Uint8Array | Uint8ClampedArray} pixels [batch, height, width, channels]
 * @param {import("./loader.js").ImagePreprocessing} declared
 * @returns {import("./loader.js").Feeds}
 */
export function fromPixels(pixels, declared) {
  const { height, width, channels } = declared;
  const plane = height * width;
  const batch = pixels.length / (plane * channels);
  if (!Number.isInteger(batch)) {
    throw new Error(`${pixels.length} pixels are no images of ${height} x ${width} x ${channels}`);
  }
  const f = Math.fround; // float32 at every step, as NumPy computes it
  const data = new Float32Array(pixels.length);
  for (let image = 0; image < batch; image++) {
    for (let channel = 0; channel < channels; channel++) {
      const [scale, mean, std] = [f(declared.scale), f(declared.mean[channel]), f(declared.std[channel])];
      for (let i = 0; i < plane; i++) {
        const pixel = pixels[(image * plane + i) * channels + channel];
        data[(image * channels + channel) * plane + i] = f(f(f(pixel * scale) - mean) / std);
      }
    }
  }
  return { [declared.input]: { type: "float32", data, dims: [batch, channels, height, width] } };
}

/**
 * A picture scaled to the model's size, as pixels uint8 [1, height, width, channels]; grey is ITU-R 601 luma.
 *
 * @param {CanvasImageSource} picture
 * @param {import("./loader.js").ImagePreprocessing} declared
 * @returns {Uint8ClampedArray}
 */
export function pixelsOf(picture, declared) {
  const { height, width, channels } = declared;
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  context.drawImage(picture, 0, 0, width, height);
  const rgba = context.getImageData(0, 0, width, height).data;
  const pixels = new Uint8ClampedArray(height * width * channels);
  for (let i = 0; i < height * width; i++) {
    const [r, g, b] = rgba.subarray(4 * i, 4 * i + 3);
    if (channels === 1) pixels[i] = (299 * r + 587 * g + 114 * b) / 1000;
    else pixels.set([r, g, b], 3 * i);
  }
  return pixels;
}
