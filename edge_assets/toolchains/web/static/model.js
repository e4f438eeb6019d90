/**
 * Models in a page, for a Python process that asks: a plain ONNX file, or variants of a bundle through its own loader.
 *
 * Tensors cross as {type, dims, data: base64}. Times are performance.now() around the runtime's call alone.
 */

const TYPES = { float32: Float32Array, int64: BigInt64Array, int32: Int32Array, uint8: Uint8Array, bool: Uint8Array };
const MODULES = { wasm: "ort.wasm.bundle.min.mjs", webgpu: "ort.webgpu.bundle.min.mjs" };

/** @type {Map<string, {session: any, Tensor: any, outputs: string[], states: any, next: number}>} by name */
const opened = new Map();
let kept = {}; // queries that each model which is timed here cycles through
let steps = null; // of them, how many make a sequence

/** Open `/model` with ONNX Runtime Web; of one with states, `layout` says which. @returns {Promise<{session_ms: number}>} */
export async function openFile(name, device, threads, outputs, layout = null) {
  const ort = await import(`/runtime/${MODULES[device]}`);
  ort.env.wasm.wasmPaths = "/runtime/";
  ort.env.wasm.numThreads = threads;
  ort.env.logLevel = "error";
  const [bytes] = await Promise.all([fetch("/model").then((r) => r.arrayBuffer()), start(ort)]);
  const started = performance.now();
  const session = await ort.InferenceSession.create(new Uint8Array(bytes), { executionProviders: [device] });
  const session_ms = performance.now() - started;
  let states = null;
  if (layout) {
    const { States } = await import(new URL("./bundle/layout.js", location.href).href);
    states = new States(layout);
  }
  opened.set(name, { session, Tensor: ort.Tensor, outputs, states, next: 0 });
  return { session_ms };
}

/** Open a variant of the bundle beside this page with its loader. @returns {Promise<object>} device, bytes, timings */
export async function openBundle(name, device, threads, outputs, variant) {
  const base = new URL("./bundle/", location.href).href;
  const { EdgeModel } = await import(`${base}loader.js`);
  const model = await EdgeModel.load(base, { device, threads, variant, offline: false });
  const states = model.hasStates ? model.stream().states : null; // those that an app's stream keeps
  opened.set(name, { session: model.session, Tensor: model.ort.Tensor, outputs, states, next: 0 });
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
  const results = await session.run(made(await decoded(feeds), Tensor), outputs);
  return encoded(outputs.map((output) => [output, results[output]]));
}

/** Outputs by name of whole sequences, [steps, ...] as the inputs; states are those after the last step. */
export async function runSteps(name, feeds) {
  const { session, Tensor, outputs, states } = opened.get(name);
  const sequences = await decoded(feeds);
  const count = Object.values(sequences)[0].dims[0];
  const ofStates = new Set(Object.values(states.layout.states).map(({ output }) => output));
  const given = outputs.map((output) => [output, []]); // one after the other; of a state the last alone
  states.reset();
  for (let step = 0; step < count; step++) {
    const results = await session.run(made(states.next(part(sequences, step)), Tensor), outputs);
    states.keep(results);
    for (const [output, all] of given) all[ofStates.has(output) ? 0 : step] = results[output];
  }
  return encoded(given.map(([output, all]) => [output, ofStates.has(output) ? all[0] : stacked(all)]));
}

/** Milliseconds of one query. */
export async function time(name, feeds) {
  const one = opened.get(name);
  return timed(one, await decoded(feeds));
}

/** Milliseconds of the next step, which takes the states that the one before gave, or zeros where it is the first. */
export async function timeStep(name, feeds, isFirst) {
  const one = opened.get(name);
  return timedStep(one, await decoded(feeds), isFirst);
}

/**
 * Keep queries, [queries, ...] of each input, here, so that none has to cross when it is timed. Of a model with states
 * they are steps, `stepsOfEach` of each sequence; else that is null.
 */
export async function keep(feeds, stepsOfEach) {
  kept = await decoded(feeds);
  steps = stepsOfEach;
  for (const one of opened.values()) one.next = 0;
  return null;
}

/** Milliseconds of so many kept queries, or of as many as fit into so many seconds. */
export async function timeKept(name, queries, seconds) {
  const one = opened.get(name);
  const count = Object.values(kept)[0].dims[0];
  const times = [];
  const deadline = performance.now() + 1000 * seconds;
  do {
    const query = part(kept, one.next);
    times.push(await (steps === null ? timed(one, query) : timedStep(one, query, one.next % steps === 0)));
    one.next = (one.next + 1) % count;
  } while (times.length < queries && performance.now() < deadline);
  return times;
}

/** What computes WebGPU here, or null. */
export async function adapter() {
  const { findAdapter } = await import(new URL("./bundle/adapter.js", location.href).href);
  return findAdapter();
}

async function timed({ session, Tensor, outputs }, feeds) {
  const inputs = made(feeds, Tensor);
  const started = performance.now();
  await session.run(inputs, outputs);
  return performance.now() - started;
}

async function timedStep({ session, Tensor, outputs, states }, feeds, isFirst) {
  if (isFirst) states.reset();
  const inputs = made(states.next(feeds), Tensor);
  const started = performance.now();
  const results = await session.run(inputs, outputs);
  const elapsed = performance.now() - started;
  states.keep(results);
  return elapsed;
}

/** The runtime compiles its WebAssembly when it is first used; that is not the model's loading. */
async function start(ort) {
  await ort.InferenceSession.create(new Uint8Array()).catch(() => null); // fails for the empty model, once compiled
}

/** What stands at one position of the first axis. */
function part(feeds, position) {
  return Object.fromEntries(
    Object.entries(feeds).map(([input, { type, dims, data }]) => {
      const size = data.length / dims[0];
      return [input, { type, dims: dims.slice(1), data: data.slice(position * size, (position + 1) * size) }];
    }),
  );
}

/** Outputs of all steps as one, [steps, ...]. */
function stacked(outputs) {
  const [{ type, dims, data }] = outputs;
  const all = new data.constructor(outputs.length * data.length);
  for (const [step, output] of outputs.entries()) all.set(output.data, step * data.length);
  return { type, dims: [outputs.length, ...dims], data: all };
}

function made(feeds, Tensor) {
  return Object.fromEntries(
    Object.entries(feeds).map(([input, { type, dims, data }]) => [input, new Tensor(type, data, dims)]),
  );
}

async function decoded(feeds) {
  const arrays = {};
  for (const [input, { type, dims, data }] of Object.entries(feeds)) {
    arrays[input] = { type, dims, data: new TYPES[type](await decode(data)) };
  }
  return arrays;
}

async function encoded(outputs) {
  const answer = {};
  for (const [output, { type, dims, data }] of outputs) answer[output] = { type, dims, data: await encode(data) };
  return answer;
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
