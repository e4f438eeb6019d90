/**
 * Models in a page, for a Python process that asks: a plain ONNX file, or variants of a bundle through its own loader.
 *
 * Tensors cross as {type, dims, data: base64}. Times are performance.now() around the runtime's call alone.
 */

const TYPES = { float32: Float32Array, int64: BigInt64Array, int32: Int32Array, uint8: Uint8Array, bool: Uint8Array };
const MODULES = { wasm: "ort.wasm.bundle.min.mjs", webgpu: "ort.webgpu.bundle.min.mjs" };

/** @type {Map<string, {session: any, Tensor: any, outputs: string[]}>} by name */
const opened = new Map();
let samples = {}; // that queries which are timed here cycle through
let next = 0; // of them

/** Open `/model` with ONNX Runtime Web. @returns {Promise<{session_ms: number}>} */
export async function openFile(name, device, threads, outputs) {
  const ort = await import(`/runtime/${MODULES[device]}`);
  ort.env.wasm.wasmPaths = "/runtime/";
  ort.env.wasm.numThreads = threads;
  ort.env.logLevel = "error";
  const [bytes] = await Promise.all([fetch("/model").then((r) => r.arrayBuffer()), start(ort)]);
  const started = performance.now();
  const session = await ort.InferenceSession.create(new Uint8Array(bytes), { executionProviders: [device] });
  opened.set(name, { session, Tensor: ort.Tensor, outputs });
  return { session_ms: performance.now() - started };
}

/** Open a variant of the bundle beside this page with its loader. @returns {Promise<object>} device, bytes, timings */
export async function openBundle(name, device, threads, outputs, variant) {
  const base = new URL("./bundle/", location.href).href;
  const { EdgeModel } = await import(`${base}loader.js`);
  const model = await EdgeModel.load(base, { device, threads, variant, offline: false });
  opened.set(name, { session: model.session, Tensor: model.ort.Tensor, outputs });
  const { bytes, timings, problems } = model;
  return { ...timings, bytes, problems, device: model.device, threads: model.threads };
}

/** Free a model. */
export async function close(name) {
  await opened.get(name)?.session.release();
  opened.delete(name);
  return null;
}

/** Outputs by name. */
export async function run(name, feeds) {
  const { session, Tensor, outputs } = opened.get(name);
  const results = await session.run(await tensors(feeds, Tensor), outputs);
  const answer = {};
  for (const output of outputs) {
    const { type, dims, data } = results[output];
    answer[output] = { type, dims, data: await encode(data) };
  }
  return answer;
}

/** Milliseconds of one query. */
export async function time(name, feeds) {
  const { session, Tensor, outputs } = opened.get(name);
  return timed(session, await tensors(feeds, Tensor), outputs);
}

/** Keep samples here, so that none has to cross for each query. */
export async function keep(feeds) {
  samples = {};
  for (const [input, { type, dims, data }] of Object.entries(feeds)) {
    samples[input] = { type, dims, values: new TYPES[type](await decode(data)) };
  }
  next = 0;
  return null;
}

/** Milliseconds of so many queries on kept samples, or of as many as fit into so many seconds. */
export async function timeKept(name, batch, queries, seconds) {
  const { session, Tensor, outputs } = opened.get(name);
  const times = [];
  const deadline = performance.now() + 1000 * seconds;
  do {
    times.push(await timed(session, sample(batch, Tensor), outputs));
  } while (times.length < queries && performance.now() < deadline);
  return times;
}

/** What computes WebGPU here, or null. */
export async function adapter() {
  const { findAdapter } = await import(new URL("./bundle/adapter.js", location.href).href);
  return findAdapter();
}

async function timed(session, inputs, outputs) {
  const started = performance.now();
  await session.run(inputs, outputs);
  return performance.now() - started;
}

/** The runtime compiles its WebAssembly when it is first used; that is not the model's loading. */
async function start(ort) {
  await ort.InferenceSession.create(new Uint8Array()).catch(() => null); // fails for the empty model, once compiled
}

/** The next `batch` of the kept samples. */
function sample(batch, Tensor) {
  const count = Object.values(samples)[0].dims[0];
  const first = next + batch <= count ? next : 0;
  next = first + batch;
  const made = {};
  for (const [input, { type, dims, values }] of Object.entries(samples)) {
    const size = values.length / count;
    made[input] = new Tensor(type, values.slice(first * size, next * size), [batch, ...dims.slice(1)]);
  }
  return made;
}

async function tensors(feeds, Tensor) {
  const made = {};
  for (const [input, { type, dims, data }] of Object.entries(feeds)) {
    made[input] = new Tensor(type, new TYPES[type](await decode(data)), dims);
  }
  return made;
}

/** @returns {Promise<ArrayBuffer>} */
async function decode(data) {
  return (await fetch(`data:application/octet-stream;base64,${data}`)).arrayBuffer();
}

async function encode(array) {
  const bytes = new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
  let text = "";
  for (let i = 0; i < bytes.length; i += 32768) text += String.fromCharCode(...bytes.subarray(i, i + 32768));
  return btoa(text);
}
