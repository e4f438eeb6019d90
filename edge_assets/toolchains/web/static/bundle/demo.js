/** The demo page: the released model on an image, a sound or a text of the visitor's. */

import { imageInput } from "./demo-image.js";
import { soundInput } from "./demo-sound.js";
import { textInput } from "./demo-text.js";
import { EdgeModel } from "./loader.js";

const INPUTS = { image: imageInput, audio: soundInput, text: textInput };
const $ = (id) => document.getElementById(id);
let model = null;
let input = null; // the visitor's: feeds(model), null before there is one, and show(outputs, manifest)
let isRunning = false;
let isStale = false; // changed while the model ran

start().catch(fail);

async function start() {
  await open({});
  describe();
  for (const id of ["variant", "device"]) {
    $(id).onchange = () => open({ variant: $("variant").value, device: $("device").value }).then(run, fail);
  }
}

async function open(options) {
  $("work").hidden = $("controls").hidden = true;
  $("loading").hidden = false;
  $("error").hidden = true;
  await model?.close();
  model = null;
  model = await EdgeModel.load("./", { ...options, onProgress: showProgress });
  if (model.hasStates) {
    throw new Error("This model takes a sequence step by step, so this page cannot show it. Use stream() of loader.js.");
  }
  if (model.manifest.layout) {
    throw new Error("This model has its samples on other axes than the first, so this page cannot show it. Use loader.js.");
  }
  if (!INPUTS[model.manifest.preprocessing.kind]) {
    throw new Error("This model takes neither an image nor a sound nor a text, so this page cannot show it. Use loader.js.");
  }
  // before it can be seen: what a quick visitor gives must find somebody who listens
  input ??= INPUTS[model.manifest.preprocessing.kind](model.manifest, run, model);
  $("loading").hidden = true;
  $("work").hidden = $("controls").hidden = false;
  showFacts();
}

function showProgress({ phase, loaded, total, fromCache }) {
  const words = {
    manifest: "Reading the manifest",
    runtime: "Loading ONNX Runtime Web",
    model: "Loading the model",
    session: "Preparing the model",
    ready: "Ready",
  };
  $("phase").textContent = words[phase] + (fromCache ? " from the cache" : "");
  $("amount").textContent = total ? `${mib(loaded)} of ${mib(total)}` : "";
  if (total) $("progress").value = loaded / total;
  else $("progress").removeAttribute("value");
}

function fail(error) {
  $("loading").hidden = false;
  $("work").hidden = true;
  $("phase").textContent = "The model could not be loaded";
  $("amount").textContent = "";
  $("progress").value = 0;
  $("error").textContent = error.message;
  $("error").hidden = false;
  $("controls").hidden = model === null;
}

// --- what the page says ------------------------------------------------------------------------------

function describe() {
  const { id, description, variants, runtimes } = model.manifest;
  document.title = $("title").textContent = id;
  $("description").textContent = description;
  fill($("variant"), Object.entries(variants).map(([name, entry]) => [name, `${name} (${entry.precision})`]), model.variant);
  fill($("device"), [["auto", "automatic"], ...Object.keys(runtimes).map((name) => [name, name])], "auto");
}

function fill(select, options, chosen) {
  select.replaceChildren(...options.map(([value, text]) => new Option(text, value, false, value === chosen)));
}

function showFacts(latency = null) {
  const { variant, device, bytes, timings, manifest, problems, offline } = model;
  const facts = {
    Model: `${variant}, ${manifest.variants[variant].precision}`,
    Device: device,
    Downloaded: mib(bytes.wire),
    "From the cache": mib(bytes.cached),
    "Loaded in": `${timings.total_ms.toFixed(0)} ms`,
    Latency: latency === null ? "–" : `${latency.toFixed(2)} ms`,
  };
  $("facts").replaceChildren(
    ...Object.entries(facts).map(([name, value]) => {
      const [entry, term, description] = ["div", "dt", "dd"].map((kind) => document.createElement(kind));
      [term.textContent, description.textContent] = [name, value];
      entry.append(term, description);
      return entry;
    }),
  );
  const said = ($("notes").textContent = problems.join(" · "));
  offline.then((reason) => {
    const isStillSaid = $("notes").textContent === said; // and nothing about a picture since
    if (reason && isStillSaid) $("notes").textContent = [...problems, reason].join(" · ");
  });
}

function mib(bytes) {
  return `${(bytes / 2 ** 20).toFixed(2)} MiB`;
}

// --- running -----------------------------------------------------------------------------------------

async function run() {
  if (isRunning || !model) {
    isStale = true;
    return;
  }
  isRunning = true;
  try {
    do {
      isStale = false;
      const feeds = input.feeds(model);
      if (!feeds) return;
      const started = performance.now();
      const outputs = await model.run(feeds);
      const latency = performance.now() - started;
      input.show(outputs[model.manifest.outputs[0].name], model.manifest);
      showFacts(latency);
    } while (isStale);
  } catch (error) {
    fail(error);
  } finally {
    isRunning = false;
  }
}
