/**
 * Loads a bundle's model: downloads and verifies in a worker, caches in IndexedDB, runs on WebGPU or WebAssembly.
 *
 *     import { EdgeModel, openPicture } from "./bundle/loader.js";
 *     const model = await EdgeModel.load("./bundle/", { onProgress: console.log });
 *     const { logits } = await model.run(model.preprocess(await openPicture(file)));        // or
 *     const { embedding } = await model.run(model.preprocess(["a text", "another"]));
 *
 * Types are in loader.d.ts.
 */

import { ChunkError } from "./chunks.js";
import { openCache } from "./cache.js";
import { importVerified } from "./modules.js";
import { fromPixels, openPicture, pixelsOf } from "./preprocess.js";
import { fromTexts, openTokenizer } from "./text.js";

export { ChunkError, openPicture };

/** @type {Map<string, Promise<any>>} ONNX Runtime Web by module URL: a page initialises each once */
const runtimes = new Map();

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
      const opened = await openSession(await devices(manifest, device), files, model, threads, onProgress);
      const cache = await openCache();
      await cache.keepOnly(base, new Set(Object.values(manifest.files).flatMap((f) => f.chunks.map((c) => c.sha256))));
      const total_ms = performance.now() - started;
      onProgress({ phase: "ready" });
      return new EdgeModel({
        base,
        manifest,
        variant: chosen,
        tokenizer,
        ...opened,
        bytes: files.received,
        timings: { session_ms: opened.session_ms, total_ms },
        cacheProblem: cache.reason,
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

  /** A picture, or texts, as the model's inputs. */
  preprocess(given) {
    const declared = this.manifest.preprocessing;
    if (declared.kind === "text") return fromTexts([given].flat(), this.tokenizer, declared);
    if (declared.kind === "image") return fromPixels(pixelsOf(given, declared), declared);
    throw new Error(`this model's preprocessing is '${declared.kind}', neither of images nor of texts`);
  }

  /** Free the session. */
  async close() {
    await this.session.release();
  }
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

/** Reads files through the worker. */
class Files {
  constructor(base, manifest, onProgress) {
    Object.assign(this, { base, manifest, onProgress, waiting: new Map(), received: { wire: 0, cached: 0 } });
    this.worker = new Worker(new URL("./verify-worker.js", import.meta.url), { type: "module" });
    this.worker.onmessage = ({ data }) => this.waiting.get(data.id)(data);
    this.worker.onerror = (event) => {
      for (const answer of this.waiting.values()) {
        answer({ error: { name: "Error", message: `the verifying worker failed: ${event.message}` } });
      }
    };
  }

  /** The verified file. */
  read(path, phase) {
    const entry = this.manifest.files[path];
    const total = entry.chunks.reduce((sum, chunk) => sum + chunk.wire_bytes, 0);
    const id = this.waiting.size;
    let loaded = 0;
    return new Promise((resolve, reject) => {
      this.waiting.set(id, ({ received, bytes, error }) => {
        if (received) {
          loaded += received.wire + received.cached;
          this.received.wire += received.wire;
          this.received.cached += received.cached;
          this.onProgress({ phase, file: path, loaded, total, fromCache: received.cached > 0 });
        } else if (error) {
          reject(error.chunk ? Object.assign(new ChunkError("", ""), error) : new Error(error.message));
        } else {
          resolve(bytes);
        }
      });
      this.worker.postMessage({ id, base: this.base, path, entry });
    });
  }

  close() {
    this.worker.terminate();
  }
}

/** The first of `candidates` that can run the model; `fallback` says why the ones before it could not. */
async function openSession(candidates, files, model, threads, onProgress) {
  const failures = [...candidates.skipped];
  for (const [i, device] of candidates.devices.entries()) {
    try {
      const ort = await openRuntime(device, files, threads);
      onProgress({ phase: "session", device });
      const started = performance.now();
      // a copy for all but the last try: the runtime may keep or detach what it is given
      const bytes = i + 1 < candidates.devices.length ? model.slice() : model;
      const session = await ort.InferenceSession.create(bytes, { executionProviders: [device] });
      const session_ms = performance.now() - started;
      return { ort, session, device, session_ms, fallback: failures.join("; ") || null };
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
  const adapter = await navigator.gpu?.requestAdapter();
  if (!adapter) return { devices: ["wasm"], skipped: ["webgpu: this browser has no adapter"] };
  const isSoftware = adapter.info?.isFallbackAdapter ?? adapter.isFallbackAdapter;
  if (isSoftware) return { devices: ["wasm"], skipped: ["webgpu: only a software adapter, slower than wasm"] };
  return { devices: ["webgpu", "wasm"], skipped: [] };
}

async function openRuntime(device, files, threads) {
  const { module, wasm } = files.manifest.runtimes[device];
  const address = new URL(module, files.base).href;
  const load = async () => {
    const loading = [importVerified(files.base, files.manifest, module), files.read(wasm, "runtime")];
    const [ort, binary] = await Promise.all(loading);
    ort.env.wasm.wasmBinary = binary.buffer;
    ort.env.wasm.numThreads = self.crossOriginIsolated ? threads : 1; // more need COOP and COEP headers
    ort.env.logLevel = "error";
    return ort;
  };
  if (!runtimes.has(address)) runtimes.set(address, load());
  try {
    return await runtimes.get(address);
  } catch (error) {
    runtimes.delete(address); // a failed download can be tried again
    throw error;
  }
}

/** Registered for pages inside the bundle's folder; resolves to why not, or null. */
async function registerServiceWorker(base) {
  if (!navigator.serviceWorker) return "service workers need HTTPS or localhost";
  try {
    await navigator.serviceWorker.register(new URL("sw.js", base), { type: "module", scope: base });
    return null;
  } catch (error) {
    return `the service worker was not registered: ${error.message}`;
  }
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
