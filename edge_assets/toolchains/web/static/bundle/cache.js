/**
 * Verified chunks in IndexedDB, by their sha256: a second visit downloads only what changed, in whatever release.
 *
 * Where IndexedDB is blocked (some private windows) nothing is kept, and `reason` says so.
 */

const STORE = "chunks";

/** @returns {Promise<{reason: string | null, get(sha256: string): Promise<Uint8Array | undefined>, put(sha256: string, bytes: Uint8Array, bundle: string): Promise<void>, remove(sha256: string): Promise<void>, keepOnly(bundle: string, hashes: Set<string>): Promise<void>}>} */
export async function openCache() {
  let database;
  try {
    database = await open();
  } catch (error) {
    return { reason: `IndexedDB is not available: ${error.message}`, get: nothing, put: nothing, remove: nothing, keepOnly: nothing };
  }
  const store = (mode) => database.transaction(STORE, mode).objectStore(STORE);
  return {
    reason: null,
    get: async (sha256) => (await done(store("readonly").get(sha256)))?.bytes,
    put: async (sha256, bytes, bundle) => void (await done(store("readwrite").put({ bytes, bundle }, sha256))),
    remove: async (sha256) => void (await done(store("readwrite").delete(sha256))),
    /** Forget the chunks of `bundle` that its manifest no longer names. */
    keepOnly: async (bundle, hashes) => {
      const chunks = store("readwrite");
      await new Promise((resolve, reject) => {
        const request = chunks.openCursor();
        request.onerror = () => reject(request.error);
        request.onsuccess = () => {
          const cursor = request.result;
          if (!cursor) return resolve(undefined);
          if (cursor.value.bundle === bundle && !hashes.has(String(cursor.key))) cursor.delete();
          cursor.continue();
        };
      });
    },
  };
}

const nothing = async () => undefined;

/** @returns {Promise<IDBDatabase>} */
function open() {
  const request = indexedDB.open("edge-assets", 1);
  request.onupgradeneeded = () => request.result.createObjectStore(STORE);
  return done(request);
}

/** @template T @param {IDBRequest<T>} request @returns {Promise<T>} */
function done(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}
