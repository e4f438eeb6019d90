/**
 * The model's declared text preprocessing in JavaScript: the same tokens as every measurement used.
 */

import { importVerified } from "./modules.js";
import { sha256 } from "./sha256.js";

/**
 * The bundle's tokenizer, its file verified.
 *
 * @param {string} base the bundle's URL
 * @param {import("./loader.js").Manifest} manifest
 */
export async function openTokenizer(base, manifest) {
  const declared = /** @type {import("./loader.js").TextPreprocessing} */ (manifest.preprocessing);
  const folder = new URL(`models/${manifest.id}/`, base);
  const [{ Tokenizer }, file, settings] = await Promise.all([
    importVerified(base, manifest, "runtime/tokenizers.min.mjs"),
    bytesOf(new URL("tokenizer.json", folder)),
    bytesOf(new URL("tokenizer_config.json", folder)),
  ]);
  const found = await sha256(file);
  if (found !== declared.sha256) throw new Error(`tokenizer.json is corrupt: sha256 ${found}, expected ${declared.sha256}`);
  const parse = (bytes) => JSON.parse(new TextDecoder().decode(bytes));
  const whole = parse(file);
  return { tokenizer: new Tokenizer(whole, parse(settings)), padding: whole.padding ?? {} };
}

/**
 * Texts as the model's inputs, int64 [batch, max_length]: cut at the end, or padded.
 *
 * @param {string[]} texts
 * @param {{tokenizer: any, padding: {pad_id?: number, pad_type_id?: number}}} opened what `openTokenizer` gave
 * @param {import("./loader.js").TextPreprocessing} declared
 * @returns {import("./loader.js").Feeds}
 */
export function fromTexts(texts, { tokenizer, padding }, declared) {
  const { inputs, max_length: length } = declared;
  const fillers = [padding.pad_id ?? 0, 0, padding.pad_type_id ?? 0];
  const feeds = {};
  for (const name of inputs) feeds[name] = { type: "int64", data: new BigInt64Array(texts.length * length), dims: [texts.length, length] };
  for (const [row, text] of texts.entries()) {
    const ids = cut(tokenizer, text, length);
    const columns = [ids, ids.map(() => 1), ids.map(() => 0)];
    for (const [i, name] of inputs.entries()) {
      const values = [...columns[i], ...Array(length - ids.length).fill(fillers[i])];
      feeds[name].data.set(values.map(BigInt), row * length);
    }
  }
  return feeds;
}

/** Token ids of one text with its special tokens; of a longer text the last others are left out. */
function cut(tokenizer, text, length) {
  const ids = tokenizer.encode(text).ids;
  const excess = ids.length - length;
  if (excess <= 0) return ids;
  const plain = tokenizer.encode(text, { add_special_tokens: false }).ids;
  const before = ids.findIndex((_id, i) => plain.every((id, j) => ids[i + j] === id));
  const end = before + plain.length;
  return [...ids.slice(0, end - excess), ...ids.slice(end)];
}

async function bytesOf(address) {
  const response = await fetch(address, { cache: "no-cache" });
  if (!response.ok) throw new Error(`${address.pathname} could not be fetched: HTTP ${response.status}`);
  return response.arrayBuffer();
}
