/**
 * Modules of the bundle that are imported only after their bytes have the hash that the manifest gives.
 *
 * What was verified is what runs: a module is imported from the bytes in memory, by a blob URL, and not fetched a
 * second time. A page with a Content-Security-Policy allows that by `blob:` in script-src and worker-src.
 */

import { ChunkError } from "./chunks.js";
import { sha256 } from "./sha256.js";

/** @type {Map<string, Promise<any>>} by address: a page initialises each once */
const imported = new Map();

/**
 * The module at `path` of the bundle at `base`.
 *
 * @param {string} base
 * @param {import("./loader.js").Manifest} manifest
 * @param {string} path
 * @param {{anew?: boolean}} [options] `anew`: another instance, of a module that could not be initialised
 * @returns {Promise<any>} rejects with a ChunkError that names the file if it is missing or not the manifest's
 */
export async function importVerified(base, manifest, path, { anew = false } = {}) {
  const address = new URL(path, base).href;
  if (anew) imported.delete(address);
  if (!imported.has(address)) imported.set(address, fromBytes(base, manifest, path));
  try {
    return await imported.get(address);
  } catch (error) {
    imported.delete(address); // a failed download can be tried again
    throw error;
  }
}

async function fromBytes(base, manifest, path) {
  const bytes = await readVerified(base, manifest, path);
  // never revoked: a runtime with threads starts its workers from the same address
  return import(URL.createObjectURL(new Blob([bytes], { type: "text/javascript" })));
}

/** The bytes of one of the bundle's small files. @returns {Promise<ArrayBuffer>} */
export async function readVerified(base, manifest, path) {
  const entry = manifest.shell.find((file) => file.path === path);
  if (!entry) throw new ChunkError(path, "is not in this bundle's manifest");
  let response;
  try {
    response = await fetch(new URL(path, base), { cache: "no-cache" });
  } catch {
    throw new ChunkError(path, "could not be fetched: the server does not answer");
  }
  if (!response.ok) throw new ChunkError(path, `could not be fetched: HTTP ${response.status}`);
  const bytes = await response.arrayBuffer();
  const found = await sha256(bytes);
  if (found !== entry.sha256) throw new ChunkError(path, `is corrupt: sha256 ${found}, expected ${entry.sha256}`);
  return bytes;
}
