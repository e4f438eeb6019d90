/**
 * A bundle's large files, read chunk by chunk: from the cache or the network, verified, decompressed and joined.
 *
 * The hash of a chunk is that of the bytes that are stored and sent, so a corrupt one is known before it is
 * decompressed. Chunks have no `.gz` in their names, because servers answer such files with a Content-Encoding that
 * the browser undoes.
 */

import { openCache } from "./cache.js";
import { sha256 } from "./sha256.js";

/** One chunk that cannot be used, and why. */
export class ChunkError extends Error {
  /** @param {string} chunk @param {string} reason */
  constructor(chunk, reason) {
    super(`${chunk} ${reason}`);
    this.name = "ChunkError";
    this.chunk = chunk;
  }
}

/**
 * The whole verified file.
 *
 * @param {string} base the bundle's URL
 * @param {string} path the file's path in the bundle
 * @param {import("./loader.js").FileEntry} entry
 * @param {(received: {wire: number, cached: number}) => void} [onBytes] bytes that arrived since the last call
 * @param {(reason: string) => void} [onCacheProblem] why something is not cached
 * @returns {Promise<Uint8Array<ArrayBuffer>>}
 */
export async function readFile(base, path, entry, onBytes = () => {}, onCacheProblem = () => {}) {
  const cache = await openCache();
  const parts = await Promise.all(entry.chunks.map((chunk) => readChunk(base, chunk, cache, onBytes)));
  const file = parts.length === 1 ? parts[0] : join(parts, entry.bytes);
  const found = await sha256(file);
  if (found !== entry.sha256) throw new ChunkError(path, `is corrupt: sha256 ${found}, expected ${entry.sha256}`);
  if (cache.reason) onCacheProblem(cache.reason);
  return file;
}

async function readChunk(base, chunk, cache, onBytes) {
  let stored = await cache.get(chunk.sha256);
  if (stored && (await sha256(stored)) !== chunk.sha256) {
    await cache.remove(chunk.sha256); // the disk lost bits: fetched anew
    stored = undefined;
  }
  if (stored) {
    onBytes({ wire: 0, cached: stored.length });
  } else {
    stored = await download(base, chunk, onBytes);
    await cache.put(chunk.sha256, stored, base);
  }
  return chunk.encoding === "gzip" ? gunzip(stored, chunk) : stored;
}

async function download(base, chunk, onBytes) {
  let response;
  try {
    response = await fetch(new URL(chunk.path, base), { cache: "no-store" }); // the cache is ours
  } catch {
    throw new ChunkError(chunk.path, "could not be fetched: the server does not answer, and it is not in the cache");
  }
  if (!response.ok) throw new ChunkError(chunk.path, `could not be fetched: HTTP ${response.status}`);
  const pieces = [];
  let length = 0;
  const reader = response.body.getReader();
  for (let step = await next(reader, chunk); !step.done; step = await next(reader, chunk)) {
    pieces.push(step.value);
    length += step.value.length;
    onBytes({ wire: step.value.length, cached: 0 });
  }
  const bytes = join(pieces, length);
  if (length !== chunk.wire_bytes) {
    throw new ChunkError(chunk.path, `is corrupt: ${length} bytes arrived, ${chunk.wire_bytes} expected`);
  }
  const found = await sha256(bytes);
  if (found !== chunk.sha256) {
    throw new ChunkError(chunk.path, `is corrupt: sha256 ${found}, expected ${chunk.sha256}`);
  }
  return bytes;
}

async function next(reader, chunk) {
  try {
    return await reader.read();
  } catch (error) {
    throw new ChunkError(chunk.path, `broke off while it was fetched: ${error.message}`);
  }
}

async function gunzip(bytes, chunk) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  try {
    return new Uint8Array(await new Response(stream).arrayBuffer());
  } catch (error) {
    // the browser calls this "Failed to fetch"
    throw new ChunkError(chunk.path, `is corrupt: it does not decompress (${error.message})`);
  }
}

function join(parts, length) {
  const whole = new Uint8Array(length);
  let offset = 0;
  for (const part of parts) {
    whole.set(part, offset);
    offset += part.length;
  }
  return whole;
}
