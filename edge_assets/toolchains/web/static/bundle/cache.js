/**
 * Verified chunks in IndexedDB, by their sha256: a second visit downloads only what changed, in whatever release.
 *
 * A cache is never worth a model that does not load: where IndexedDB is blocked (some private windows), full, or fails
 * in the middle, nothing is found or kept, and `reason` says why.
 */

const STORE = "chunks";
const PATIENCE_MS = 5000; // for IndexedDB to open, which in some browsers neither succeeds nor fails

/** @typedef {{reason: string | null, get(sha256: string): Promise<Uint8Array | undefined>, put(sha256: string, bytes: Uint8Array, bundle: string): Promise<void>, remove(sha256: string): Promise<void>, keepOnly(bundle: string, hashes: Set<string>): Promise<void>}} Cache */

/** @returns {Promise<Cache>} */
export async function openCache() {
  const nothing = async () => undefined;
  const cache = { reason: null, get: nothing, put: nothing, remove: nothing, keepOnly: nothing };
  let database;
  try {
    database = await open();
  } catch (error) {
    cache.reason = `nothing is cached, IndexedDB is not available: ${error.message}`;
    return cache;
  }
  const attempt = (work) => async (...given) => {
    try {
      return await work(...given);
    } catch (error) {
      cache.reason ??= reasonOf(error);
      return undefined;
    }
  };
  const store = (mode) => database.transaction(STORE, mode).objectStore(STORE);
  cache.get = attempt(async (sha256) => (await done(store("readonly").get(sha256)))?.bytes);
  cache.put = attempt(async (sha256, bytes, bundle) => {
    const chunks = store("readwrite");
    chunks.put({ bytes, bundle }, sha256);
    await committed(chunks.transaction); // a full disk is known only then
  });
  cache.remove = attempt(async (sha256) => void (await done(store("readwrite").delete(sha256))));
  /** Forget the chunks of `bundle` that its manifest no longer names. */
  cache.keepOnly = attempt(async (bundle, hashes) => {
    const chunks = store("readwrite");
    const request = chunks.openCursor();
    request.onsuccess = () => {
      const cursor = request.result;
      if (!cursor) return;
      if (cursor.value.bundle === bundle && !hashes.has(String(cursor.key))) cursor.delete();
      cursor.continue();
    };
    await committed(chunks.transaction);
  });
  return cache;
}

function reasonOf(error) {
  if (error?.name === "QuotaExceededError") {
    return "not everything is cached: this browser's storage for the page is full";
  }
  return `not everything is cached: ${error?.name}: ${error?.message}`;
}

/** @returns {Promise<IDBDatabase>} */
function open() {
  const request = indexedDB.open("edge-assets", 1);
  request.onupgradeneeded = () => request.result.createObjectStore(STORE);
  const silence = new Promise((_resolve, reject) => {
    setTimeout(() => reject(new Error(`it did not answer within ${PATIENCE_MS / 1000} s`)), PATIENCE_MS);
  });
  return Promise.race([done(request), silence]);
}

/** @template T @param {IDBRequest<T>} request @returns {Promise<T>} */
function done(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

/** @param {IDBTransaction} transaction @returns {Promise<void>} */
function committed(transaction) {
  return new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve();
    transaction.onabort = () => reject(transaction.error);
  });
}
