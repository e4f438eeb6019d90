/**
 * A text that the visitor types: its class, or, for a model of embeddings, which of other texts are nearest to it.
 */

import { showClasses, showHint, showRows } from "./demo-scores.js";

const PAUSE_MS = 250; // after the last key
const $ = (id) => document.getElementById(id);

/** @param {import("./loader.js").Manifest} manifest @param {() => Promise<void>} run called when a text changed */
export function textInput(manifest, run) {
  const hasClasses = manifest.class_names.length > 0;
  $("texts").hidden = false;
  $("others").hidden = hasClasses;
  let timer = 0;
  const later = () => {
    clearTimeout(timer);
    timer = setTimeout(run, PAUSE_MS);
  };
  $("text").oninput = $("candidates").oninput = later;
  showHint(hasClasses ? "Type a text" : "Type a text to find what is nearest to it");
  return {
    feeds: (model) => model.preprocess(hasClasses ? [$("text").value] : [$("text").value, ...candidates()]),
    show: hasClasses ? showClasses : showNearest,
  };
}

function candidates() {
  return $("candidates").value.split("\n").map((line) => line.trim()).filter(Boolean);
}

/** The candidates by cosine similarity to the text, which is the first of the batch. */
function showNearest({ data, dims }) {
  const width = dims.slice(1).reduce((a, b) => a * b, 1);
  const vectors = Array.from({ length: dims[0] }, (_, i) => Array.from(data.subarray(i * width, (i + 1) * width), Number));
  const dot = (a, b) => a.reduce((sum, value, i) => sum + value * b[i], 0);
  const cosine = (a, b) => dot(a, b) / Math.sqrt(dot(a, a) * dot(b, b));
  const names = candidates();
  const rows = vectors.slice(1).map((vector, i) => {
    const similarity = cosine(vectors[0], vector);
    return { name: names[i] ?? "", share: Math.max(0, similarity), text: similarity.toFixed(3) };
  });
  if (rows.length) showRows(rows.sort((a, b) => Number(b.text) - Number(a.text)));
  else showHint("Write one text per line to compare with");
}
