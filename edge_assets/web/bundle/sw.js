/**
 * The service worker: the page works offline after the first visit, and plain model paths answer with whole files.
 *
 * Small files come from the network while there is one, so that a new release is seen, else from the cache of the
 * last visit. Large files are in IndexedDB, by content.
 */

import { readFile } from "./chunks.js";

const BASE = new URL("./", self.location.href).href;
const SHELL = `edge-assets ${BASE}`;

self.addEventListener("install", (event) => event.waitUntil(fill().then(() => self.skipWaiting())));
self.addEventListener("activate", (event) => event.waitUntil(self.clients.claim()));
self.addEventListener("fetch", (event) => {
  const address = new URL(event.request.url);
  address.search = address.hash = "";
  if (event.request.method !== "GET" || !address.href.startsWith(BASE)) return;
  const path = address.href.slice(BASE.length);
  if (!/\.part\d+$/.test(path)) event.respondWith(answer(path, address.href, event.request));
});

async function fill() {
  const cache = await caches.open(SHELL);
  const manifest = await (await fetch("manifest.json", { cache: "no-cache" })).json();
  await cache.addAll(["./", "manifest.json", ...manifest.shell.map((file) => file.path)]);
  const released = await fetch("default.json", { cache: "no-cache" });
  if (released.ok) await cache.put("default.json", released);
}

async function answer(path, address, request) {
  const cache = await caches.open(SHELL);
  if (path.endsWith(".onnx") || path.endsWith(".wasm")) {
    const entry = (await (await cache.match("manifest.json")).json()).files[path];
    if (entry) return whole(path, entry);
  }
  try {
    const response = await fetch(request);
    if (response.ok) await cache.put(address, response.clone());
    return response;
  } catch (error) {
    const kept = await cache.match(address);
    if (kept) return kept;
    throw error;
  }
}

async function whole(path, entry) {
  try {
    const bytes = await readFile(BASE, path, entry);
    return new Response(bytes, { headers: { "Content-Length": String(bytes.length) } });
  } catch (error) {
    return new Response(error.message, { status: 502, statusText: "corrupt or unreachable chunk" });
  }
}
