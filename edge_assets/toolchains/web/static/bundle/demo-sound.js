/** A sound that the visitor picks or drops. */

import { showClasses, showHint } from "./demo-scores.js";
import { openSound } from "./sound.js";

const SHOWN = 8; // values of an output without classes
const $ = (id) => document.getElementById(id);
let opened = null;

/**
 * @param {import("./loader.js").Manifest} manifest
 * @param {() => Promise<void>} run called when there is a sound
 * @param {import("./loader.js").EdgeModel} model any of the bundle's: they hear alike
 */
export function soundInput(manifest, run, model) {
  const declared = manifest.preprocessing;
  $("sounds").hidden = false;
  $("rate").textContent = declared.sampling_rate;
  showHint("Choose a sound");
  const show = async (file) => {
    try {
      const sound = await openSound(file, declared.sampling_rate);
      model.preprocess(sound); // says what is wrong with it
      opened = sound;
    } catch (error) {
      $("notes").textContent = `${file.name}: ${error.message}.`;
      return;
    }
    $("heard").textContent = `${file.name}, ${(opened.length / declared.sampling_rate).toFixed(2)} s`;
    await run();
  };
  listen(show);
  return {
    feeds: (current) => opened && current.preprocess(opened),
    show: manifest.class_names.length > 0 ? showClasses : showValues,
  };
}

function listen(show) {
  const place = $("sounds");
  $("sound").onchange = ({ target }) => target.files[0] && show(target.files[0]);
  place.ondragover = (event) => event.preventDefault();
  place.ondrop = (event) => {
    event.preventDefault();
    if (event.dataTransfer.files[0]) show(event.dataTransfer.files[0]);
  };
}

function showValues({ data, dims }) {
  const first = Array.from(data.subarray(0, SHOWN), (value) => Number(value).toFixed(3));
  showHint(`[${dims.join(", ")}]: ${first.join(", ")}${data.length > SHOWN ? ", …" : ""}`);
}
