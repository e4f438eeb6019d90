/**
 * The bundle through Transformers.js: the same verified and cached chunks, read by `from_pretrained`.
 *
 * The page needs an import map, because Transformers.js imports ONNX Runtime Web by name:
 *
 *     <script type="importmap">{"imports": {
 *       "onnxruntime-web/webgpu": "./bundle/runtime/ort.wasm.bundle.min.mjs",
 *       "onnxruntime-common": "./bundle/runtime/ort.wasm.bundle.min.mjs"}}</script>
 */

import { bundleFetch } from "./loader.js";
import { importVerified, readVerified } from "./modules.js";

/**
 * Transformers.js, set up to take this bundle's models and nothing from elsewhere.
 *
 * @param {string | URL} url the bundle
 * @returns {Promise<any>} the module: `(await open(url)).AutoModel.from_pretrained(manifest.id, { dtype, device })`;
 *   of a model of texts also `AutoTokenizer.from_pretrained(manifest.id)`
 */
export async function open(url) {
  const base = new URL(url, location.href).href;
  const manifest = await (await fetch(new URL("manifest.json", base), { cache: "no-cache" })).json();
  // what the page's import map names is imported by the browser: checked here, before anything of it runs
  await readVerified(base, manifest, manifest.runtimes.wasm.module);
  const transformers = await importVerified(base, manifest, "runtime/transformers.web.min.js");
  const { env } = transformers;
  const answer = await bundleFetch(base);
  // a path, because Transformers.js looks for a tokenizer's files at no local address with a host
  env.localModelPath = "models/";
  env.fetch = (request, options) => answer(new URL(request.url ?? request, base), options);
  env.allowLocalModels = true;
  env.allowRemoteModels = false;
  env.useBrowserCache = false; // the chunks are in the bundle's own cache
  env.useWasmCache = false;
  const wasm = await answer(new URL(manifest.runtimes.wasm.wasm, base).href);
  env.backends.onnx.wasm.wasmPaths = undefined; // Transformers.js points it at a CDN
  env.backends.onnx.wasm.wasmBinary = await wasm.arrayBuffer();
  env.backends.onnx.wasm.numThreads = 1;
  return transformers;
}
