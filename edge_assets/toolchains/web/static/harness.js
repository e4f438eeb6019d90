/**
 * Runs one model for the Python side, which drives this page: a plain ONNX file, or a bundle through its own loader.
 *
 * Tensors cross as {type, dims, data: base64}. Times are performance.now() around the runtime's call alone.
 */

const TYPES = { float32: Float32Array, int64: BigInt64Array, int32: Int32Array, uint8: Uint8Array, bool: Uint8Array };
const MODULES = { wasm: "ort.wasm.bundle.min.mjs", webgpu: "ort.webgpu.bundle.min.mjs" };
let session, Tensor, outputs;

window.edge = {
  /** Open `/model` with ONNX Runtime Web. @returns {Promise<{session_ms: number}>} */
  async openFile(device, threads, names) {
    const ort = await import(`/runtime/${MODULES[device]}`);
    ort.env.wasm.wasmPaths = "/runtime/";
    ort.env.wasm.numThreads = threads;
    ort.env.logLevel = "error";
    const [bytes] = await Promise.all([fetch("/model").then((r) => r.arrayBuffer()), start(ort)]);
    const started = performance.now();
    session = await ort.InferenceSession.create(new Uint8Array(bytes), { executionProviders: [device] });
    [Tensor, outputs] = [ort.Tensor, names];
    return { session_ms: performance.now() - started };
  },

  /** Open the bundle at `/bundle/` with its loader. @returns {Promise<object>} device, bytes and timings */
  async openBundle(device, threads, names, variant) {
    const { EdgeModel } = await import("/bundle/loader.js");
    const model = await EdgeModel.load("/bundle/", { device, threads, variant, offline: false });
    [session, Tensor, outputs] = [model.session, model.ort.Tensor, names];
    const { bytes, timings, fallback, cacheProblem } = model;
    return { ...timings, bytes, fallback, cacheProblem, device: model.device };
  },

  /** Outputs by name. */
  async run(feeds) {
    const results = await session.run(await tensors(feeds), outputs);
    const answer = {};
    for (const name of outputs) {
      const { type, dims, data } = results[name];
      answer[name] = { type, dims, data: await encode(data) };
    }
    return answer;
  },

  /** Milliseconds of one query. */
  async time(feeds) {
    const inputs = await tensors(feeds);
    const started = performance.now();
    await session.run(inputs, outputs);
    return performance.now() - started;
  },
};

/** The runtime compiles its WebAssembly when it is first used; that is not the model's loading. */
async function start(ort) {
  await ort.InferenceSession.create(new Uint8Array()).catch(() => null); // fails for the empty model, once compiled
}

async function tensors(feeds) {
  const made = {};
  for (const [name, { type, dims, data }] of Object.entries(feeds)) {
    const bytes = await (await fetch(`data:application/octet-stream;base64,${data}`)).arrayBuffer();
    made[name] = new Tensor(type, new TYPES[type](bytes), dims);
  }
  return made;
}

async function encode(array) {
  const bytes = new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
  let text = "";
  for (let i = 0; i < bytes.length; i += 32768) text += String.fromCharCode(...bytes.subarray(i, i + 32768));
  return btoa(text);
}
