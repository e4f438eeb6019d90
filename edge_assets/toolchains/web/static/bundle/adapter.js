/** What computes WebGPU in this browser: a GPU, or software that gives the same results at a speed of its own. */

// by vendor, architecture, device or description: SwiftShader, Mesa's, and Microsoft's Basic Render Driver
const SOFTWARE = /swiftshader|llvmpipe|lavapipe|softpipe|basic render|\bwarp\b|software/i;

/** @returns {Promise<{name: string, isSoftware: boolean} | null>} null where there is no adapter */
export async function findAdapter() {
  const adapter = await navigator.gpu?.requestAdapter();
  if (!adapter) return null;
  const info = adapter.info ?? (await adapter.requestAdapterInfo?.()) ?? {};
  const words = [info.vendor, info.architecture, info.device, info.description].filter(Boolean);
  const isFallback = info.isFallbackAdapter ?? adapter.isFallbackAdapter ?? false;
  const name = words.join(" ") || "an adapter that does not say what it is";
  return { name, isSoftware: isFallback || SOFTWARE.test(name) };
}
