/**
 * Loads a bundle's model: downloads and verifies in a worker, caches in IndexedDB, runs on WebGPU or WebAssembly.
 *
 *     import { EdgeModel, openPicture } from "./bundle/loader.js";
 *     const model = await EdgeModel.load("./bundle/", { onProgress: console.log });
 *     const { logits } = await model.run(model.preprocess(await openPicture(file)));        // or
 *     const { embedding } = await model.run(model.preprocess(["a text", "another"]));        // or
 *     const { scores } = await model.run(model.preprocess(await openSound(file, 16000)));
 *
 * A model that keeps states from step to step:
 *
 *     const stream = model.stream();
 *     for (const step of model.steps(model.preprocess(sound))) show(await stream.run(step));
 *     stream.reset();                                                                      // what follows is another one
 *
 * Types are in loader.d.ts.
 */

import { findAdapter } from "./adapter.js";
import { ChunkError, readFile } from "./chunks.js";
import { openCache } from "./cache.js";
import { place, States, stepsOf } from "./layout.js";
import { importVerified } from "./modules.js";
import { fromPicture, openPicture } from "./preprocess.js";
import { fromSound, openSound, openTables } from "./sound.js";
import { fromTexts, openTokenizer } from "./text.js";

export { ChunkError, openPicture, openSound };

/** @type {Map<string, Promise<{ort: any, threads: number, problem: string | null}>>} ONNX Runtime Web by module URL: a page initialises each once */
const runtimes = new Map();
const THREADS_PATIENCE_MS = 30_000; // for the runtime's threads to start, which do so never where a policy forbids them

export class EdgeModel {
  /** @private use EdgeModel.load */
  constructor(parts) {
    Object.assign(this, parts);
  }

  static async load(url, { device = "auto", variant, threads = 1, offline = true, onProgress = () => {} } = {}) {
    const started = performance.now();
    const base = new URL(url, location.href).href;
    onProgress({ phase: "manifest" });
    const worker = offline ? registerServiceWorker(base) : Promise.resolve("not asked for");
    const manifest = await fetchJSON(base, "manifest.json");
    const chosen = variant ?? (await defaultVariant(base)) ?? manifest.default;
    if (!manifest.variants[chosen]) {
      throw new Error(`no variant '${chosen}' in this bundle, which has ${Object.keys(manifest.variants).join(", ")}`);
    }
    const files = new Files(base, manifest, onProgress);
    try {
      const model = await files.read(manifest.variants[chosen].file, "model");
      const tokenizer = manifest.preprocessing.kind === "text" ? await openTokenizer(base, manifest) : null;
      const tables = manifest.preprocessing.kind === "audio" ? await openTables(base, manifest) : null;
      const opened = await openSession(await devices(manifest, device), files, model, threads, onProgress);
      const cache = await openCache();
      await cache.keepOnly(base, new Set(Object.values(manifest.files).flatMap((f) => f.chunks.map((c) => c.sha256))));
      const total_ms = performance.now() - started;
      const cacheProblem = cache.reason ?? files.cacheProblem;
      const problems = [opened.fallback, opened.threadsProblem, files.workerProblem, cacheProblem].filter(Boolean);
      for (const problem of problems) console.warn(`edge-assets: ${problem}`);
      onProgress({ phase: "ready" });
      return new EdgeModel({
        base,
        manifest,
        variant: chosen,
        tokenizer,
        tables,
        ort: opened.ort,
        session: opened.session,
        device: opened.device,
        threads: opened.threads,
        fallback: opened.fallback,
        problems,
        bytes: files.received,
        timings: { session_ms: opened.session_ms, total_ms },
        cacheProblem,
        offline: worker,
      });
    } finally {
      files.close();
    }
  }

  /** Outputs by name for inputs by name. */
  async run(feeds) {
    const { Tensor } = this.ort;
    const tensors = {};
    for (const [name, { type, data, dims }] of Object.entries(feeds)) tensors[name] = new Tensor(type, data, dims);
    const results = await this.session.run(tensors);
    const outputs = {};
    for (const { name } of this.manifest.outputs) {
      const { type, data, dims } = results[name];
      outputs[name] = { type, data, dims };
    }
    return outputs;
  }

  /** A new stream of steps, of a model that keeps states. */
  stream() {
    if (!this.hasStates) throw new Error("this model keeps no states from step to step: run takes all that it needs");
    return new Stream(this);
  }

  /** What `preprocess` gives of a model that keeps states as what it takes in each step. */
  steps(feeds) {
    return stepsOf(feeds, this.manifest.layout);
  }

  /** Whether the model keeps states from step to step. */
  get hasStates() {
    return Object.keys(this.manifest.layout?.states ?? {}).length > 0;
  }

  /** A picture, a sound, or texts, as the model's inputs; of a model with states all steps, [samples, steps, ...]. */
  preprocess(given) {
    const feeds = preprocessed(given, this);
    const { layout } = this.manifest;
    return layout && !this.hasStates ? place(feeds, layout) : feeds;
  }

  /** Free the session. */
  async close() {
    await this.session.release();
  }
}

/** Steps through a model, each with the states of the one before; several streams may share a model. */
class Stream {
  constructor(model) {
    this.model = model;
    this.states = new States(model.manifest.layout);
    this.last = Promise.resolve(); // what was asked for so far: steps run in the order in which they are asked for
  }

  /** Outputs of the next step by name. One that fails leaves the states as they were. */
  run(feeds) {
    const step = this.last.then(async () => {
      const outputs = await this.model.run(this.states.next(feeds));
      this.states.keep(outputs);
      return outputs;
    });
    this.last = step.catch(() => null);
    return step;
  }

  /** The step after those that were asked for is a first one. */
  reset() {
    this.last = this.last.then(() => this.states.reset());
  }
}

function preprocessed(given, { manifest: { preprocessing: declared }, tokenizer, tables }) {
  if (declared.kind === "text") return fromTexts([given].flat(), tokenizer, declared);
  if (declared.kind === "image") return fromPicture(given, declared);
  if (declared.kind === "audio") return fromSound(given, declared, tables);
  throw new Error(`this model's preprocessing is '${declared.kind}', neither of images nor of sounds nor of texts`);
}

/**
 * A `fetch` that answers the plain paths of the bundle's files (models/<id>/onnx/model.onnx) with their verified
 * chunks, joined: for Transformers.js as `env.fetch`, and for whatever else wants whole files.
 */
export async function bundleFetch(url, onProgress = () => {}) {
  const base = new URL(url, location.href).href;
  const manifest = await fetchJSON(base, "manifest.json");
  return async (request, options) => {
    const path = new URL(request.url ?? request, location.href).href.replace(base, "");
    if (!manifest.files[path]) return fetch(request, options);
    const files = new Files(base, manifest, onProgress);
    try {
      const bytes = await files.read(path, "model");
      return new Response(bytes, { headers: { "Content-Length": String(bytes.length) } });
    } finally {
      files.close();
    }
  };
}

/** Reads files: in a worker, or in the page where no worker starts. */
class Files {
  constructor(base, manifest, onProgress) {
    Object.assign(this, { base, manifest, onProgress, waiting: new Map(), received: { wire: 0, cached: 0 } });
    Object.assign(this, { asked: 0, worker: null, workerProblem: null, cacheProblem: null });
    try {
      this.worker = new Worker(new URL("./verify-worker.js", import.meta.url), { type: "module" });
      this.worker.onmessage = ({ data }) => this.waiting.get(data.id)?.answer(data);
      this.worker.onerror = (event) => this.withoutWorker(event.message || "it could not be loaded");
    } catch (error) {
      this.withoutWorker(error.message);
    }
  }

  /** What the worker was asked for is read in the page. */
  withoutWorker(reason) {
    this.worker?.terminate();
    this.worker = null;
    this.workerProblem = `files are verified in the page itself, the verifying worker failed: ${reason}`;
    for (const id of this.waiting.keys()) this.readHere(id);
  }

  /** The verified file. */
  read(path, phase) {
    const entry = this.manifest.files[path];
    const total = entry.chunks.reduce((sum, chunk) => sum + chunk.wire_bytes, 0);
    const id = this.asked++;
    let loaded = 0;
    return new Promise((resolve, reject) => {
      const answer = ({ received, cacheProblem, bytes, error }) => {
        if (received) {
          loaded += received.wire + received.cached;
          this.received.wire += received.wire;
          this.received.cached += received.cached;
          this.onProgress({ phase, file: path, loaded, total, fromCache: received.cached > 0 });
        } else if (cacheProblem) {
          this.cacheProblem = cacheProblem;
        } else {
          this.waiting.delete(id);
          if (bytes) resolve(bytes);
          else reject(error.chunk ? Object.assign(new ChunkError("", ""), error) : new Error(error.message));
        }
      };
      this.waiting.set(id, { path, entry, answer });
      if (this.worker) this.worker.postMessage({ id, base: this.base, path, entry });
      else this.readHere(id);
    });
  }

  async readHere(id) {
    const { path, entry, answer } = this.waiting.get(id);
    const onBytes = (received) => answer({ received });
    const onCacheProblem = (cacheProblem) => answer({ cacheProblem });
    try {
      answer({ bytes: await readFile(this.base, path, entry, onBytes, onCacheProblem) });
    } catch (error) {
      answer({ error: { name: error.name, message: error.message, chunk: error.chunk ?? null } });
    }
  }

  close() {
    this.worker?.terminate();
  }
}

/** The first of `candidates` that can run the model; `fallback` says why the ones before it could not. */
async function openSession(candidates, files, model, threads, onProgress) {
  const failures = [...candidates.skipped];
  for (const [i, device] of candidates.devices.entries()) {
    try {
      const runtime = await openRuntime(device, files, threads);
      const { ort } = runtime;
      onProgress({ phase: "session", device });
      const started = performance.now();
      // a copy for all but the last try: the runtime may keep or detach what it is given
      const bytes = i + 1 < candidates.devices.length ? model.slice() : model;
      const session = await ort.InferenceSession.create(bytes, { executionProviders: [device] });
      const session_ms = performance.now() - started;
      const fallback = failures.join("; ") || null;
      return { ort, session, device, session_ms, fallback, threads: runtime.threads, threadsProblem: runtime.problem };
    } catch (error) {
      if (error instanceof ChunkError || i + 1 === candidates.devices.length) throw error;
      failures.push(`${device}: ${error.message}`);
    }
  }
  throw new Error(`no device can run this bundle: ${failures.join("; ")}`);
}

/** Devices to try, in order. "auto" takes WebGPU where the bundle has it and the browser a real adapter. */
async function devices(manifest, asked) {
  if (asked !== "auto") {
    if (!manifest.runtimes[asked]) throw new Error(`this bundle was not made for ${asked}`);
    return { devices: [asked], skipped: [] };
  }
  if (!manifest.runtimes.webgpu) return { devices: ["wasm"], skipped: [] };
  const adapter = await findAdapter();
  if (!adapter) return { devices: ["wasm"], skipped: ["webgpu: this browser has no adapter"] };
  if (adapter.isSoftware) {
    return { devices: ["wasm"], skipped: [`webgpu: only a software adapter, slower than wasm: ${adapter.name}`] };
  }
  return { devices: ["webgpu", "wasm"], skipped: [] };
}

/** The runtime, the threads that it has, and why these are fewer than asked for, if so. */
async function openRuntime(device, files, asked) {
  const { module, wasm } = files.manifest.runtimes[device];
  const address = new URL(module, files.base).href;
  if (!runtimes.has(address)) runtimes.set(address, startRuntime(files, device, module, wasm, asked));
  try {
    const runtime = await runtimes.get(address);
    if (runtime.problem || runtime.threads === asked) return runtime;
    const has = `${runtime.threads} thread${runtime.threads === 1 ? "" : "s"}`;
    return { ...runtime, problem: `${has} instead of ${asked}: this page started the runtime so` };
  } catch (error) {
    runtimes.delete(address); // a failed download can be tried again
    throw error;
  }
}

async function startRuntime(files, device, module, wasm, asked) {
  const loading = [importVerified(files.base, files.manifest, module), files.read(wasm, "runtime")];
  const [ort, binary] = await Promise.all(loading);
  let problem = null;
  if (asked > 1) {
    try {
      demandSharedMemory();
      await startThreads(prepared(ort, binary.slice(), asked), device);
      return { ort, threads: asked, problem };
    } catch (error) {
      problem = `1 thread instead of ${asked}: ${error.message}`;
    }
  }
  // one that could not be initialised never can: another instance
  const own = problem ? await importVerified(files.base, files.manifest, module, { anew: true }) : ort;
  return { ort: prepared(own, binary, 1), threads: 1, problem };
}

function prepared(ort, binary, threads) {
  ort.env.wasm.wasmBinary = binary.buffer;
  ort.env.wasm.numThreads = threads;
  ort.env.logLevel = "error";
  return ort;
}

/** Throws, saying what of the page or the browser keeps workers from sharing memory. */
function demandSharedMemory() {
  if (!self.crossOriginIsolated) {
    throw new Error("the page is not cross-origin isolated, for which its server sends the headers COOP and COEP");
  }
  try {
    const memory = new WebAssembly.Memory({ initial: 1, maximum: 1, shared: true });
    new MessageChannel().port1.postMessage(memory.buffer);
  } catch (error) {
    throw new Error(`workers cannot share memory: ${error.message}`);
  }
}

/** The runtime initialised with its threads. Throws why that failed. */
async function startThreads(ort, device) {
  ort.env.wasm.initTimeout = THREADS_PATIENCE_MS;
  try {
    await ort.InferenceSession.create(new Uint8Array(), { executionProviders: [device] });
  } catch (error) {
    // of an empty model it fails in any case, once it is initialised
    if (error.message.startsWith("no available backend")) throw new Error(`the runtime's threads failed: ${error.message}`);
  }
}

/** Registered for pages inside the bundle's folder; resolves to why it is not, once it is installed, or null. */
async function registerServiceWorker(base) {
  try {
    if (!navigator.serviceWorker) return "service workers need HTTPS or localhost";
    const options = { type: "module", scope: base };
    const { installing } = await navigator.serviceWorker.register(new URL("sw.js", base), options);
    if (installing && !(await isInstalled(installing))) {
      return "this page does not work offline: its files could not be fetched, or do not fit into the browser's storage";
    }
    return null;
  } catch (error) {
    return `the service worker was not registered: ${error.message}`;
  }
}

/** Whether a service worker that is installing succeeds. */
function isInstalled(worker) {
  return new Promise((resolve) => {
    const look = () => {
      if (worker.state !== "installing") resolve(worker.state !== "redundant");
    };
    worker.onstatechange = look;
    look();
  });
}

async function fetchJSON(base, name) {
  let response;
  try {
    response = await fetch(new URL(name, base), { cache: "no-cache" });
  } catch {
    throw new Error(`${name} could not be fetched: the server does not answer`);
  }
  if (!response.ok) throw new Error(`${name} could not be fetched: HTTP ${response.status}`);
  return response.json();
}

/** The variant that was released; a bundle that was not released has none. */
async function defaultVariant(base) {
  const response = await fetch(new URL("default.json", base), { cache: "no-cache" }).catch(() => null);
  return response?.ok ? (await response.json()).variant : null;
}
