/** Reads one file at a time off the main thread, so that hashing and decompressing never block the page. */

import { readFile } from "./chunks.js";

self.onmessage = async ({ data: { id, base, path, entry } }) => {
  try {
    const onBytes = (received) => self.postMessage({ id, received });
    const onCacheProblem = (cacheProblem) => self.postMessage({ id, cacheProblem });
    const bytes = await readFile(base, path, entry, onBytes, onCacheProblem);
    self.postMessage({ id, bytes }, { transfer: [bytes.buffer] });
  } catch (error) {
    self.postMessage({ id, error: { name: error.name, message: error.message, chunk: error.chunk ?? null } });
  }
};
