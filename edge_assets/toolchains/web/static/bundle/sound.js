/**
 * The model's declared preprocessing of sound in JavaScript: the operations of `app/preprocess_sound.h` in double, in the
 * same order and with the tables that Python computed, rounded to float32 at the end. No AudioContext has a part in it:
 * a browser would resample.
 */

import { sha256 } from "./sha256.js";

const DEFAULTS = {
  samples: null,
  n_fft: null,
  hop: null,
  center: true,
  power: 2,
  n_mels: null,
  log: "none",
  floor: 1e-10,
  below_peak: null,
  frames: null,
  mean: 0,
  std: 1,
  axes: ["mel", "time"],
};
const WHOLE_NUMBERS = [1, 0xfffe]; // formats of a WAV file: as they are, and with more said of them

/**
 * The tables of the model's spectrogram, their file verified; null for a model that takes the waveform.
 *
 * @param {string} base the bundle's URL
 * @param {import("./loader.js").Manifest} manifest
 * @returns {Promise<import("./loader.js").SoundTables | null>}
 */
export async function openTables(base, manifest) {
  const { n_fft: size } = /** @type {import("./loader.js").AudioPreprocessing} */ (manifest.preprocessing);
  if (size === undefined) return null;
  const path = `models/${manifest.id}/sound.json`;
  const entry = manifest.shell.find((file) => file.path === path);
  if (!entry) throw new Error(`the bundle's manifest names no ${path}`);
  const response = await fetch(new URL(path, base), { cache: "no-cache" });
  if (!response.ok) throw new Error(`${path} could not be fetched: HTTP ${response.status}`);
  const bytes = await response.arrayBuffer();
  const found = await sha256(bytes);
  if (found !== entry.sha256) throw new Error(`${path} is corrupt: sha256 ${found}, expected ${entry.sha256}`);
  return JSON.parse(new TextDecoder().decode(bytes));
}

/**
 * A mono sound of the model's sampling rate as its input; nothing is resampled.
 *
 * @param {Int16Array | Float32Array | Float64Array} sound whole numbers of 16 bits, or numbers from -1 to 1
 * @param {import("./loader.js").AudioPreprocessing} declared
 * @param {import("./loader.js").SoundTables | null} tables what `openTables` gave
 * @returns {import("./loader.js").Feeds}
 */
export function fromSound(sound, declared, tables) {
  const audio = { ...DEFAULTS, ...declared };
  const signal = taken(sound, audio);
  if (audio.n_fft === null) {
    const data = Float32Array.from(signal, (value) => (value - audio.mean) / audio.std);
    return { [audio.input]: { type: "float32", data, dims: [1, data.length] } };
  }
  const values = spectrogram(signal, audio, tables);
  const { rows, frames } = values;
  const least = leastOf(values.data, audio);
  const data = new Float32Array(rows * frames);
  const isTimeFirst = audio.axes.indexOf("time") < audio.axes.indexOf("mel");
  for (let frame = 0; frame < frames; frame++) {
    for (let row = 0; row < rows; row++) {
      const value = Math.max(values.data[frame * rows + row], least);
      data[isTimeFirst ? frame * rows + row : row * frames + frame] = (value - audio.mean) / audio.std;
    }
  }
  const sizes = { mel: rows, time: frames, channel: 1 };
  return { [audio.input]: { type: "float32", data, dims: [1, ...audio.axes.map((axis) => sizes[axis])] } };
}

/**
 * A WAV file of whole numbers as `fromSound` takes it, its channels averaged: as `infer.py` reads it.
 *
 * @param {Blob} file
 * @param {number} samplingRate samples per second that the file must have
 * @returns {Promise<Float32Array>}
 */
export async function openSound(file, samplingRate) {
  const view = new DataView(await file.arrayBuffer());
  const { rate, channels, width, begin, end } = placeOf(view);
  if (rate !== samplingRate) {
    throw new Error(`the sound has ${rate} samples per second, the model takes ${samplingRate}: resample it first`);
  }
  const sound = new Float32Array(Math.floor((end - begin) / (width * channels)));
  for (let i = 0; i < sound.length; i++) {
    let sum = 0;
    for (let channel = 0; channel < channels; channel++) {
      sum += numberAt(view, begin + (i * channels + channel) * width, width) / 2 ** 31;
    }
    sound[i] = sum / channels;
  }
  return sound;
}

// --- a WAV file ----------------------------------------------------------------------------------------

/** Where a file has its samples, and what they are. */
function placeOf(view) {
  const textAt = (at) => String.fromCharCode(...new Uint8Array(view.buffer, at, 4));
  if (view.byteLength < 12 || textAt(0) !== "RIFF" || textAt(8) !== "WAVE") throw new Error("this is no WAV file");
  let format = null;
  for (let at = 12; at + 8 <= view.byteLength; ) {
    const [name, bytes] = [textAt(at), view.getUint32(at + 4, true)];
    const begin = at + 8;
    if (name === "fmt " && begin + 16 <= view.byteLength) {
      format = { rate: view.getUint32(begin + 4, true), channels: view.getUint16(begin + 2, true) };
      format.width = Math.ceil(view.getUint16(begin + 14, true) / 8);
      const kind = view.getUint16(begin, true);
      const isOther = kind === 0xfffe && bytes >= 26 && view.getUint16(begin + 24, true) !== 1;
      if (!WHOLE_NUMBERS.includes(kind) || isOther || format.width < 1 || format.width > 4 || format.channels < 1) {
        throw new Error("this is no WAV file of whole numbers");
      }
    }
    if (name === "data" && format) return { ...format, begin, end: Math.min(begin + bytes, view.byteLength) };
    at = begin + bytes + (bytes % 2);
  }
  throw new Error("this WAV file has no samples");
}

/** A whole number of `width` bytes as the upper bytes of 32 bits. */
function numberAt(view, at, width) {
  if (width === 1) return (view.getUint8(at) ^ 128) << 24; // bytes have no sign there
  if (width === 2) return view.getInt16(at, true) << 16;
  if (width === 3) return (view.getUint8(at) << 8) | (view.getUint8(at + 1) << 16) | (view.getUint8(at + 2) << 24);
  return view.getInt32(at, true);
}

// --- a spectrogram -------------------------------------------------------------------------------------

/** The samples as doubles, cut at the end or padded with zeros. */
function taken(sound, { input, samples }) {
  const divisor = sound instanceof Int16Array ? 32768 : 1;
  if (divisor === 1 && !(sound instanceof Float32Array) && !(sound instanceof Float64Array)) {
    throw new Error(`a sound of '${input}' must be an Int16Array, a Float32Array or a Float64Array, mono`);
  }
  const signal = new Float64Array(samples ?? sound.length);
  for (let i = 0; i < Math.min(signal.length, sound.length); i++) signal[i] = sound[i] / divisor;
  return signal;
}

/** Values before mean and std, double [frames, rows]. */
function spectrogram(signal, audio, tables) {
  const { n_fft: size, hop, center, input } = audio;
  const half = center ? Math.floor(size / 2) : 0;
  const padded = signal.length + 2 * half;
  if (center && signal.length <= half) {
    throw new Error(`${signal.length} samples of '${input}' are too few to reflect ${half}`);
  }
  if (padded < size) throw new Error(`${signal.length} samples of '${input}' are less than one frame of ${size}`);
  const own = 1 + Math.floor((padded - size) / hop);
  const frames = audio.frames ?? own;
  const rows = audio.n_mels ?? Math.floor(size / 2) + 1;
  const data = new Float64Array(frames * rows);
  const buffers = [new Float64Array(2 * size), new Float64Array(2 * size)];
  for (let frame = 0; frame < frames; frame++) {
    let energies = new Float64Array(Math.floor(size / 2) + 1); // silence
    if (frame < own) {
      cut(signal, frame * hop - half, buffers[0], tables.window);
      energies = energiesOf(transform(...buffers, size, tables), energies, audio.power);
    }
    if (audio.n_mels !== null) energies = bandsOf(energies, tables);
    for (let row = 0; row < rows; row++) data[frame * rows + row] = logarithmOf(energies[row], audio);
  }
  return { data, frames, rows };
}

/** The windowed samples of one frame as complex numbers, the sound reflected at its ends. */
function cut(signal, begin, frame, window) {
  for (let i = 0; i < window.length; i++) {
    let at = Math.abs(begin + i);
    if (at >= signal.length) at = 2 * (signal.length - 1) - at;
    frame[2 * i] = signal[at] * window[i];
    frame[2 * i + 1] = 0;
  }
}

/**
 * The discrete Fourier transform of `size` real values, by Stockham's steps: one for each prime factor, from the
 * smallest on. Spectra of real values are symmetric, so half of each is computed. Both buffers are overwritten; the one
 * with the result is returned.
 */
function transform(from, to, size, { cosines, sines }) {
  let [done, rest, factor] = [1, size, 2];
  while (rest > 1) {
    while (rest % factor !== 0) factor++;
    rest /= factor;
    const length = done * factor;
    for (let i = 0; i < rest; i++) {
      for (let k = 0; 2 * k <= length; k++) {
        let [real, imaginary, turn] = [0, 0, 0];
        for (let part = 0; part < factor; part++) {
          const at = 2 * ((i + part * rest) * done + (k % done));
          real += cosines[turn] * from[at] - sines[turn] * from[at + 1];
          imaginary += cosines[turn] * from[at + 1] + sines[turn] * from[at];
          turn += k * rest;
          if (turn >= size) turn -= size;
        }
        const found = 2 * i * length;
        to[found + 2 * k] = real;
        to[found + 2 * k + 1] = imaginary;
        if (k !== 0 && 2 * k < length) {
          to[found + 2 * (length - k)] = real;
          to[found + 2 * (length - k) + 1] = -imaginary;
        }
      }
    }
    [from, to, done] = [to, from, length];
  }
  return from;
}

/** Magnitudes to the power. */
function energiesOf(spectrum, energies, power) {
  for (let bin = 0; bin < energies.length; bin++) {
    const [real, imaginary] = [spectrum[2 * bin], spectrum[2 * bin + 1]];
    const energy = real * real + imaginary * imaginary;
    energies[bin] = power === 2 ? energy : power === 1 ? Math.sqrt(energy) : Math.pow(energy, power / 2);
  }
  return energies;
}

function bandsOf(energies, { mel_first: first, mel_count: count, mel_weights: weights }) {
  const bands = new Float64Array(first.length);
  let at = 0;
  for (let band = 0; band < bands.length; band++) {
    let sum = 0;
    for (let i = 0; i < count[band]; i++) sum += weights[at++] * energies[first[band] + i];
    bands[band] = sum;
  }
  return bands;
}

function logarithmOf(energy, { log, floor }) {
  if (log === "none") return energy;
  const raised = Math.max(energy, floor);
  if (log === "ln") return Math.log(raised);
  return log === "db" ? 10 * Math.log10(raised) : Math.log10(raised);
}

/** What smaller values are raised to. */
function leastOf(values, { log, below_peak: below }) {
  if (log === "none" || below === null) return -Infinity;
  let peak = -Infinity;
  for (const value of values) peak = Math.max(peak, value);
  return peak - below;
}
