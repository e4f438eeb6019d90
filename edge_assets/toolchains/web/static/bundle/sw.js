/**
 * The service worker: the page works offline after the first visit, and plain model paths answer with whole files.
 *
 * It keeps the files that the manifest lists as the bundle's own, verified, and nothing else: whatever another
 * application serves below the same folder passes through. Small files come from the network while there is one, so
 * that a new release is seen; its manifest then replaces all of them. Large files are in IndexedDB, by content.
 */

import { readFile } from "./chunks.js";
import { sha256 } from "./sha256.js";

const BASE = new URL("./", self.location.href).href;
const SHELL = `edge-assets ${BASE}`;
const MANIFEST = "manifest.json";
const DEFAULT = "default.json"; // written by the release, after the manifest

self.addEventListener("install", (event) => event.waitUntil(fill().then(() => self.skipWaiting())));
self.addEventListener("activate", (event) => event.waitUntil(self.clients.claim()));
self.addEventListener("fetch", (event) => {
  const address = new URL(event.request.url);
  const hasQuery = address.search !== "";
  address.search = address.hash = "";
  if (event.request.method !== "GET" || !address.href.startsWith(BASE)) return;
  const path = address.href.slice(BASE.length) || "index.html";
  if (!/\.part\d+$/.test(path)) event.respondWith(answer(path, hasQuery, event));
});

/** Keep the bundle as its manifest says now, all of it or nothing, and forget what it no longer names. */
async function fill() {
  const response = await fetch(MANIFEST, { cache: "no-cache" });
  const manifest = await response.clone().json();
  const cache = await caches.open(SHELL);
  const found = await Promise.all(manifest.shell.map((file) => shellFile(cache, file)));
  const paths = manifest.shell.map((file) => file.path);
  await Promise.all(paths.map((path, i) => cache.put(path, found[i])));
  await cache.put(MANIFEST, response);
  const released = await fetch(DEFAULT, { cache: "no-cache" });
  if (released.ok) await cache.put(DEFAULT, released);
  const own = new Set([...paths, MANIFEST, DEFAULT].map((path) => new URL(path, BASE).href));
  for (const request of await cache.keys()) {
    if (!own.has(request.url)) await cache.delete(request);
  }
}

/** One verified file of the shell: as it is kept, if it is still the same, else from the network. */
async function shellFile(cache, { path, sha256: expected }) {
  const kept = await cache.match(path);
  if (kept && (await hashOf(kept)) === expected) return kept;
  const response = await fetch(path, { cache: "no-cache" });
  if (!response.ok) throw new Error(`${path} could not be fetched: HTTP ${response.status}`);
  const found = await hashOf(response);
  if (found !== expected) throw new Error(`${path} is corrupt: sha256 ${found}, expected ${expected}`);
  return response;
}

async function hashOf(response) {
  return sha256(await response.clone().arrayBuffer());
}

async function answer(path, hasQuery, event) {
  let cache, kept, manifest;
  try {
    cache = await caches.open(SHELL);
    kept = await cache.match(MANIFEST);
    manifest = await kept.clone().json();
  } catch (error) {
    console.warn(`this page does not work offline now, its storage cannot be read: ${error.message}`);
    return fetch(event.request);
  }
  if (manifest.files[path] && !hasQuery) return whole(path, manifest.files[path]);
  const isOwn = [MANIFEST, DEFAULT].includes(path) || manifest.shell.some((file) => file.path === path);
  if (!isOwn) return fetch(event.request);
  try {
    const response = await fetch(event.request);
    if (response.ok && !hasQuery) await notice(cache, path, response.clone(), kept, event).catch(warn);
    return response;
  } catch (error) {
    const offline = await cache.match(path);
    if (offline) return offline;
    throw error;
  }
}

/** A new release has another manifest, or chooses another variant. */
async function notice(cache, path, response, kept, event) {
  if (path === DEFAULT) await cache.put(DEFAULT, response);
  if (path !== MANIFEST) return;
  const isNew = (await response.text()) !== (await kept.text());
  // a file that fails to arrive leaves the former release in place; the next visit tries again
  if (isNew) event.waitUntil(fill().catch(warn));
}

/** What cannot be kept is served all the same. */
function warn(error) {
  console.warn(`the newest release is not kept for offline use: ${error.message}`);
}

async function whole(path, entry) {
  try {
    const bytes = await readFile(BASE, path, entry);
    return new Response(bytes, { headers: { "Content-Length": String(bytes.length) } });
  } catch (error) {
    return new Response(error.message, { status: 502, statusText: "corrupt or unreachable chunk" });
  }
}
