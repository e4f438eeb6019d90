/** Types of loader.js. */

export type Device = "webgpu" | "wasm";
export type TensorType = "float32" | "int64" | "int32" | "uint8" | "bool";

export interface TensorValue {
  type: TensorType;
  data: Float32Array | BigInt64Array | Int32Array | Uint8Array;
  dims: readonly number[];
}
export type Feeds = Record<string, TensorValue>;

export interface Progress {
  /** runtime and model are downloads (or reads from the cache); session is the runtime's own loading */
  phase: "manifest" | "runtime" | "model" | "session" | "ready";
  file?: string;
  /** bytes over the wire or from the cache so far, and in all */
  loaded?: number;
  total?: number;
  fromCache?: boolean;
  device?: Device;
}

export interface LoadOptions {
  /** "auto": WebGPU where the bundle has it and the browser a real adapter, else wasm */
  device?: "auto" | Device;
  /** asset name such as "onnx_int8_static"; default: the released one */
  variant?: string;
  /** of wasm; more than 1 needs a cross-origin isolated page, else it is 1 */
  threads?: number;
  /** register the service worker */
  offline?: boolean;
  onProgress?: (progress: Progress) => void;
}

export interface Chunk {
  path: string;
  bytes: number;
  wire_bytes: number;
  /** of the stored bytes */
  sha256: string;
  encoding: "gzip" | "identity";
}
export interface FileEntry {
  bytes: number;
  sha256: string;
  chunks: Chunk[];
}
export interface Variant {
  file: string;
  precision: string;
  /** Transformers.js's name of it */
  dtype: string;
  bytes: number;
  wire_bytes: number;
}
export interface TensorSpec {
  name: string;
  dtype: TensorType;
  shape: (number | string)[];
}
export interface ImagePreprocessing {
  kind: "image";
  input: string;
  height: number;
  width: number;
  channels: number;
  /** in the model's order of channels */
  mean: number[];
  std: number[];
  scale: number;
  /** default: "none", pictures have the model's size */
  resize?: "none" | "stretch" | "crop" | "letterbox";
  /** of "crop": the shorter side, or height and width, before it */
  resize_to?: number[];
  filter?: "nearest" | "box" | "bilinear" | "bicubic";
  antialias?: boolean;
  /** of "letterbox" */
  fill?: number[];
  align?: "center" | "start";
  order?: "RGB" | "BGR";
  other_channels?: "convert" | "composite" | "refuse";
  background?: number[];
  /** height and width from which on a picture keeps its own size, up to `height` and `width` */
  least?: number[];
  multiple?: number;
}
export interface AudioPreprocessing {
  kind: "audio";
  input: string;
  /** Hz, of every sound: nothing is resampled */
  sampling_rate: number;
  /** a sound is cut at its end, or padded with zeros, to so many */
  samples?: number;
  /** left out: the input is the waveform */
  n_fft?: number;
  hop?: number;
  window_length?: number;
  center?: boolean;
  power?: number;
  n_mels?: number;
  f_min?: number;
  f_max?: number;
  mel_scale?: "htk" | "slaney";
  mel_norm?: "none" | "slaney";
  log?: "none" | "ln" | "log10" | "db";
  floor?: number;
  below_peak?: number;
  /** cut at the end, or padded with silence, to so many */
  frames?: number;
  mean?: number;
  std?: number;
  axes?: ("mel" | "time" | "channel")[];
}
/** What Python computed for a spectrogram: models/<id>/sound.json. */
export interface SoundTables {
  window: number[];
  cosines: number[];
  sines: number[];
  /** of each mel band its first bin, and how many it has; the weights of one band after the other */
  mel_first: number[];
  mel_count: number[];
  mel_weights: number[];
}
export interface TextPreprocessing {
  kind: "text";
  field: string;
  tokenizer: string;
  /** of tokenizer.json */
  sha256: string;
  max_length: number;
  /** names of token ids, attention mask and, if any, token types */
  inputs: string[];
}
/** Where the model has its batch, and what it keeps from step to step. */
export interface Layout {
  /** axis of the batch, null where there is none; of all others it is the first */
  inputs: Record<string, number | null>;
  outputs: Record<string, number | null>;
  /** by input, the output that the next step takes, and the shape of one sample without its batch */
  states: Record<string, { output: string; shape: number[]; axis: number; dtype: string }>;
}
export interface Manifest {
  format: "edge-assets-web/1";
  id: string;
  description: string;
  inputs: TensorSpec[];
  outputs: TensorSpec[];
  preprocessing: ImagePreprocessing | AudioPreprocessing | TextPreprocessing | { kind: "passthrough"; inputs: string[] };
  class_names: string[];
  /** of a model with states, or with its batch elsewhere than first */
  layout?: Layout;
  files: Record<string, FileEntry>;
  variants: Record<string, Variant>;
  default: string;
  runtimes: Partial<Record<Device, { module: string; wasm: string }>>;
  shell: { path: string; bytes: number; sha256: string }[];
  versions: Record<string, string>;
}

/** A chunk or file that cannot be used; `message` names it and says why. */
export class ChunkError extends Error {
  readonly chunk: string;
}

/** Steps through a model, its states kept here: zeros at first, then what the step before gave. */
export interface Stream {
  /**
   * Outputs of the next step, for all inputs but the states. Steps run in the order in which they are asked for; one
   * that fails leaves the states as they were.
   */
  run(feeds: Feeds): Promise<Feeds>;
  /** The step after those that were asked for is a first one: of another sequence, or of another number of samples. */
  reset(): void;
}

export class EdgeModel {
  static load(url: string | URL, options?: LoadOptions): Promise<EdgeModel>;
  private constructor();

  readonly manifest: Manifest;
  readonly variant: string;
  readonly device: Device;
  /** why a preferred device was not taken, or null */
  readonly fallback: string | null;
  /** bytes that came over the wire and from the cache */
  readonly bytes: { wire: number; cached: number };
  readonly timings: { session_ms: number; total_ms: number };
  /** of wasm: fewer than asked for where the page or the browser has none, which `problems` says */
  readonly threads: number;
  /** what could not be done, a sentence each, and what was done instead; also on the console */
  readonly problems: readonly string[];
  /** why not everything is cached, or null */
  readonly cacheProblem: string | null;
  /** resolves, once it is installed, to why there is no service worker, or null */
  readonly offline: Promise<string | null>;

  /** outputs by name for inputs by name, as `manifest.inputs` has them: with the states, of a model that keeps some */
  run(feeds: Feeds): Promise<Feeds>;
  /** whether the model keeps states from step to step */
  readonly hasStates: boolean;
  /** a new stream of steps, of a model that keeps states; several may share a model. Throws for any other model */
  stream(): Stream;
  /** what `preprocess` gives of such a model, [samples, steps, ...], as what a stream takes in each step */
  steps(feeds: Feeds): Feeds[];
  /**
   * Whichever the model takes: a picture of any size (best from `openPicture`), one text or several, or a mono sound of
   * the model's sampling rate, whole numbers of 16 bits or numbers from -1 to 1. Of a model that keeps states all steps,
   * [samples, steps, ...]
   */
  preprocess(given: ImageData | CanvasImageSource | string | string[] | Int16Array | Float32Array | Float64Array): Feeds;
  close(): Promise<void>;
}

/** An image file's pixels, upright by its EXIF orientation, without its colour profile: as `infer.py` reads them. */
export function openPicture(file: Blob): Promise<ImageData>;

/** A WAV file of whole numbers, its channels averaged, as `infer.py` reads it; an error for another sampling rate. */
export function openSound(file: Blob, samplingRate: number): Promise<Float32Array>;

/** A `fetch` that answers the plain paths of the bundle's files with their verified chunks, joined. */
export function bundleFetch(url: string | URL, onProgress?: (progress: Progress) => void): Promise<typeof fetch>;
