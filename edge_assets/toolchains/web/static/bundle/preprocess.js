/**
 * The model's declared preprocessing of pictures in JavaScript: the same whole numbers, and the same arithmetic in
 * float32, as every measurement used. A browser decodes the file, and nothing else of it is the browser's.
 */

const BITS = 22; // of a weight's fraction
const REACH = { nearest: 0.5, box: 0.5, bilinear: 1, bicubic: 2 }; // of a filter, in pixels to each side
const DEFAULTS = {
  resize: "none",
  resize_to: [],
  filter: "bilinear",
  antialias: true,
  fill: [0],
  align: "center",
  order: "RGB",
  other_channels: "convert",
  background: [255, 255, 255],
  least: [], // height and width of a range of sizes, up to the model's
  multiple: 1,
};

/**
 * The same for one picture: in a range of sizes with the height and width that it gets, which the other functions want.
 *
 * @param {CanvasImageSource | ImageData} picture
 * @param {import("./loader.js").ImagePreprocessing} declared
 * @returns {import("./loader.js").ImagePreprocessing}
 */
export function sizedFor(picture, declared) {
  const image = { ...DEFAULTS, ...declared };
  if (!image.least.length) return declared;
  const [height, width] = sizeOf(picture);
  const [leastHeight, leastWidth] = image.least;
  let scaled = [height, width];
  if (height < leastHeight || width < leastWidth) scaled = around(height, width, image.least);
  if (scaled[0] > image.height || scaled[1] > image.width) scaled = inside(height, width, image);
  const sized = {
    ...declared,
    height: stepped(scaled[0], leastHeight, image.height, image),
    width: stepped(scaled[1], leastWidth, image.width, image),
    least: [],
  };
  if (image.resize === "none" && (height !== sized.height || width !== sized.width)) {
    const multiples = image.multiple === 1 ? "" : `, in multiples of ${image.multiple}`;
    throw new Error(`the model takes pictures of ${leastHeight} x ${leastWidth} to ${image.height} x ${image.width} pixels (height x width)${multiples}, and this one has ${height} x ${width}`);
  }
  return image.resize === "letterbox" ? { ...sized, resize_to: scaled } : sized;
}

/**
 * Pixels as the model's input: `(pixel * scale - mean) / std` per channel, float32 [batch, channels, height, width].
 *
 * @param {Uint8Array | Uint8ClampedArray} pixels [batch, height, width, channels], red first
 * @param {import("./loader.js").ImagePreprocessing} declared
 * @returns {import("./loader.js").Feeds}
 */
export function fromPixels(pixels, declared) {
  const { height, width, channels, order } = { ...DEFAULTS, ...declared };
  const plane = height * width;
  const batch = pixels.length / (plane * channels);
  if (!Number.isInteger(batch)) {
    throw new Error(`${pixels.length} pixels are no images of ${height} x ${width} x ${channels}`);
  }
  const f = Math.fround; // float32 at every step, as NumPy computes it
  const data = new Float32Array(pixels.length);
  for (let image = 0; image < batch; image++) {
    for (let channel = 0; channel < channels; channel++) {
      const given = order === "BGR" && channel < 3 ? 2 - channel : channel;
      const [scale, mean, std] = [f(declared.scale), f(declared.mean[channel]), f(declared.std[channel])];
      for (let i = 0; i < plane; i++) {
        const pixel = pixels[(image * plane + i) * channels + given];
        data[(image * channels + channel) * plane + i] = f(f(f(pixel * scale) - mean) / std);
      }
    }
  }
  return { [declared.input]: { type: "float32", data, dims: [batch, channels, height, width] } };
}

/**
 * A picture and its preprocessing as the model's input, whatever its size.
 *
 * @param {CanvasImageSource | ImageData} picture
 * @param {import("./loader.js").ImagePreprocessing} declared
 * @returns {import("./loader.js").Feeds}
 */
export function fromPicture(picture, declared) {
  const sized = sizedFor(picture, declared);
  return fromPixels(pixelsOf(picture, sized), sized);
}

/**
 * A picture of any size as the model's pixels, uint8 [1, height, width, channels], red first.
 *
 * Pixels of an ImageData, which `openPicture` gives, are taken as they are. Of any other picture the browser makes
 * pixels: with a colour profile they are not those of the file, and with transparency they are rounded.
 *
 * @param {CanvasImageSource | ImageData} picture
 * @param {import("./loader.js").ImagePreprocessing} declared
 * @returns {Uint8ClampedArray}
 */
export function pixelsOf(picture, declared) {
  const image = { ...DEFAULTS, ...declared };
  const { data, width, height } = picture instanceof ImageData ? picture : drawn(picture);
  if (image.resize === "none" && (height !== image.height || width !== image.width)) {
    throw new Error(`the model takes pictures of ${image.height} x ${image.width} pixels (height x width) alone, and this one has ${height} x ${width}`);
  }
  const pixels = withChannels(data, image);
  if (image.resize === "none") return pixels;
  const [rows, columns] = place(height, width, image);
  const narrow = resizeRows(pixels, height, width, columns, image.channels);
  const whole = new Uint8ClampedArray(image.height * image.width * image.channels);
  for (let i = 0; i < whole.length; i++) whole[i] = image.fill[(i % image.channels) % image.fill.length];
  resizeColumns(narrow, rows, columns, whole, image);
  return whole;
}

/**
 * An image file's pixels, upright by its EXIF orientation, without its colour profile.
 *
 * @param {Blob} file
 * @returns {Promise<ImageData>}
 */
export async function openPicture(file) {
  const bitmap = await createImageBitmap(file, {
    imageOrientation: "from-image",
    colorSpaceConversion: "none",
    premultiplyAlpha: "none",
  });
  try {
    const picture = drawn(bitmap);
    // a canvas keeps colours multiplied by their alpha, and rounds; a texture keeps them as they are
    if (!isOpaque(picture.data)) picture.data.set(texels(bitmap));
    return picture;
  } finally {
    bitmap.close();
  }
}

/** The pixels of a bitmap by way of WebGL. */
function texels(bitmap) {
  const { width, height } = bitmap;
  const gl = new OffscreenCanvas(1, 1).getContext("webgl");
  if (!gl) throw new Error("a transparent picture needs WebGL, which this browser lacks");
  try {
    gl.bindTexture(gl.TEXTURE_2D, gl.createTexture());
    gl.pixelStorei(gl.UNPACK_COLORSPACE_CONVERSION_WEBGL, gl.NONE);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, gl.RGBA, gl.UNSIGNED_BYTE, bitmap);
    gl.bindFramebuffer(gl.FRAMEBUFFER, gl.createFramebuffer());
    gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, gl.getParameter(gl.TEXTURE_BINDING_2D), 0);
    if (gl.checkFramebufferStatus(gl.FRAMEBUFFER) !== gl.FRAMEBUFFER_COMPLETE) {
      throw new Error(`a transparent picture of ${height} x ${width} pixels is too large for this browser's WebGL`);
    }
    const pixels = new Uint8Array(4 * width * height);
    gl.readPixels(0, 0, width, height, gl.RGBA, gl.UNSIGNED_BYTE, pixels);
    return pixels;
  } finally {
    gl.getExtension("WEBGL_lose_context")?.loseContext();
  }
}

/** Height and width of whatever can be drawn. */
function sizeOf(picture) {
  return [
    picture.naturalHeight ?? picture.videoHeight ?? picture.displayHeight ?? picture.height,
    picture.naturalWidth ?? picture.videoWidth ?? picture.displayWidth ?? picture.width,
  ];
}

/** A picture's pixels by way of a canvas of its own size. */
function drawn(picture) {
  const [height, width] = sizeOf(picture);
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.drawImage(picture, 0, 0);
  return context.getImageData(0, 0, width, height);
}

// --- channels ------------------------------------------------------------------------------------------

function isOpaque(rgba) {
  for (let i = 3; i < rgba.length; i += 4) if (rgba[i] !== 255) return false;
  return true;
}

function isGrey(rgba) {
  for (let i = 0; i < rgba.length; i += 4) if (rgba[i] !== rgba[i + 1] || rgba[i] !== rgba[i + 2]) return false;
  return true;
}

/** Pixels [height, width, 4] with the model's channels. */
function withChannels(rgba, image) {
  const { channels, other_channels: other } = image;
  if (channels === 4) return rgba;
  if (channels !== 1 && channels !== 3) throw new Error(`pictures have no ${channels} channels`);
  if (other === "refuse" && (!isOpaque(rgba) || (channels === 1 && !isGrey(rgba)))) {
    throw new Error(`the model takes pictures of ${channels} channels alone`);
  }
  const count = rgba.length / 4;
  const pixels = new Uint8ClampedArray(count * channels);
  const colour = [0, 0, 0];
  for (let i = 0; i < count; i++) {
    for (let channel = 0; channel < 3; channel++) {
      const value = rgba[4 * i + channel];
      colour[channel] = other === "composite" ? over(value, rgba[4 * i + 3], image.background[channel]) : value;
    }
    if (channels === 3) pixels.set(colour, 3 * i);
    else pixels[i] = luma(colour);
  }
  return pixels;
}

function over(value, alpha, background) {
  return Math.floor((2 * (value * alpha + background * (255 - alpha)) + 255) / 510);
}

/** ITU-R 601, in 16-bit fractions. */
function luma([red, green, blue]) {
  return (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16;
}

// --- size ----------------------------------------------------------------------------------------------

/** How rows and columns of a picture are resized: [rows, columns]. */
function place(height, width, image) {
  let [scaledHeight, scaledWidth, top, left] = [image.height, image.width, 0, 0];
  if (image.resize === "crop") {
    [scaledHeight, scaledWidth] = beforeCrop(height, width, image);
    top = nearestWhole(scaledHeight - image.height, 2);
    left = nearestWhole(scaledWidth - image.width, 2);
  } else if (image.resize === "letterbox") {
    [scaledHeight, scaledWidth] = image.resize_to.length ? image.resize_to : inside(height, width, image);
    if (image.align === "center") {
      top = -Math.floor((image.height - scaledHeight) / 2);
      left = -Math.floor((image.width - scaledWidth) / 2);
    }
  }
  return [axisOf(height, scaledHeight, top, image.height, image), axisOf(width, scaledWidth, left, image.width, image)];
}

function beforeCrop(height, width, image) {
  const [shorter, other] = image.resize_to.length ? image.resize_to : [Math.max(image.height, image.width)];
  if (other !== undefined) return [shorter, other];
  if (width <= height) return [Math.floor((shorter * height) / width), shorter];
  return [shorter, Math.floor((shorter * width) / height)];
}

function inside(height, width, image) {
  if (image.height * width <= image.width * height) {
    return [image.height, Math.max(nearestWhole(width * image.height, height), 1)];
  }
  return [Math.max(nearestWhole(height * image.width, width), 1), image.width];
}

/** The least size of a range, with the picture's proportions. */
function around(height, width, [leastHeight, leastWidth]) {
  if (leastHeight * width >= leastWidth * height) return [leastHeight, nearestWhole(width * leastHeight, height)];
  return [nearestWhole(height * leastWidth, width), leastWidth];
}

/** The model's side for one of a picture: a multiple, and in its range. */
function stepped(side, least, largest, { resize, multiple }) {
  const steps = resize === "letterbox" ? Math.ceil(side / multiple) : nearestWhole(side, multiple);
  return Math.min(Math.max(steps * multiple, least), largest);
}

/** The nearest whole number of a fraction; of a half, the even one. */
function nearestWhole(numerator, denominator) {
  const rest = numerator % denominator;
  const whole = (numerator - rest) / denominator;
  return whole + (2 * rest > denominator || (2 * rest === denominator && whole % 2 === 1) ? 1 : 0);
}

/** An axis from `size` to `scaled` pixels, of which the model's picture has `length` from `offset` on. */
function axisOf(size, scaled, offset, length, { filter, antialias }) {
  const step = size / scaled;
  const widened = antialias ? Math.max(step, 1) : 1;
  const [begin, end] = [Math.max(offset, 0), Math.min(offset + length, scaled)];
  return { size, offset, begin, end, filter, antialias, step, widened, reach: REACH[filter] * widened };
}

/** Of which pixels the resized one `at` is made, and how much of each: [positions, weights]. */
function weigh(axis, at) {
  const { size, filter, step, reach } = axis;
  if (filter === "nearest") {
    let position = 0.5 * step;
    for (let i = 0; i < at; i++) position += step;
    return [[Math.min(Math.floor(position), size - 1)], [2 ** BITS]];
  }
  const center = (at + 0.5) * step;
  const first = Math.floor(center - reach + 0.5);
  const taps = Math.ceil(reach) * 2 + 1;
  const amounts = Array.from({ length: taps }, (_, tap) => amount(axis, first + tap, center));
  let total = 0;
  for (const one of amounts) total += one;
  const positions = amounts.map((_, tap) => Math.min(Math.max(first + tap, 0), size - 1));
  const weights = amounts.map((one) => {
    const share = (one / total) * 2 ** BITS;
    return Math.trunc(share + (share < 0 ? -0.5 : 0.5));
  });
  return [positions, weights];
}

function amount({ size, filter, antialias, widened, reach }, position, center) {
  if (position >= Math.floor(center + reach + 0.5)) return 0;
  if (antialias && (position < 0 || position >= size)) return 0; // else it is the pixel at the edge
  return valueOf(filter, (position - center + 0.5) * (1 / widened), antialias);
}

function valueOf(filter, distance, antialias) {
  if (filter === "box") return distance > -0.5 && distance <= 0.5 ? 1 : 0;
  const x = Math.abs(distance);
  if (filter === "bilinear") return Math.max(1 - x, 0);
  const a = antialias ? -0.5 : -0.75;
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  if (x < 2) return (((x - 5) * x + 8) * x - 4) * a;
  return 0;
}

/** Along the rows: [height, columns that are seen, channels]. */
function resizeRows(pixels, height, width, columns, channels) {
  const seen = columns.end - columns.begin;
  const narrow = new Uint8ClampedArray(height * seen * channels);
  for (let x = 0; x < seen; x++) {
    const [positions, weights] = weigh(columns, columns.begin + x);
    for (let y = 0; y < height; y++) {
      for (let channel = 0; channel < channels; channel++) {
        let total = 2 ** (BITS - 1);
        for (let tap = 0; tap < positions.length; tap++) {
          total += pixels[(y * width + positions[tap]) * channels + channel] * weights[tap];
        }
        narrow[(y * seen + x) * channels + channel] = total >> BITS; // clamped by the array
      }
    }
  }
  return narrow;
}

/** Along the columns of `narrow`, into the model's picture. */
function resizeColumns(narrow, rows, columns, whole, image) {
  const line = (columns.end - columns.begin) * image.channels;
  const left = columns.begin - columns.offset;
  for (let y = rows.begin; y < rows.end; y++) {
    const [positions, weights] = weigh(rows, y);
    const to = ((y - rows.offset) * image.width + left) * image.channels;
    for (let i = 0; i < line; i++) {
      let total = 2 ** (BITS - 1);
      for (let tap = 0; tap < positions.length; tap++) total += narrow[positions[tap] * line + i] * weights[tap];
      whole[to + i] = total >> BITS;
    }
  }
}
