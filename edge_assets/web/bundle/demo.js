/** The demo page: the released model on an image that the visitor draws, picks, drops or pastes. */

import { EdgeModel } from "./loader.js";

const SHOWN = 10; // classes
const PEN = 0.075; // of the drawing's side
const $ = (id) => document.getElementById(id);
const drawing = $("drawing");
const pen = drawing.getContext("2d", { willReadFrequently: true });
let model = null;
let isRunning = false;
let isStale = false; // drawn on while the model ran

start().catch(fail);

async function start() {
  await open({});
  describe();
  listen();
  clear();
}

async function open(options) {
  $("work").hidden = $("controls").hidden = true;
  $("loading").hidden = false;
  $("error").hidden = true;
  await model?.close();
  model = null;
  model = await EdgeModel.load("./", { ...options, onProgress: showProgress });
  if (model.manifest.preprocessing.kind !== "image") {
    throw new Error("This model takes no image, so this page cannot show it. Use loader.js.");
  }
  $("loading").hidden = true;
  $("work").hidden = $("controls").hidden = false;
  await showFacts();
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

async function showFacts(latency = null) {
  const { variant, device, bytes, timings, manifest, fallback, cacheProblem } = model;
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
      const entry = document.createElement("div");
      entry.append(element("dt", name), element("dd", value));
      return entry;
    }),
  );
  const notes = [fallback, cacheProblem, await model.offline].filter(Boolean);
  $("notes").textContent = notes.join(" · ");
}

function showScores(scores) {
  const names = model.manifest.class_names;
  const top = scores
    .map((share, i) => ({ share, name: names[i] ?? `class ${i}` }))
    .sort((a, b) => b.share - a.share)
    .slice(0, SHOWN);
  $("answer").textContent = top[0].name;
  $("classes").replaceChildren(
    ...top.map(({ share, name }) => {
      const row = document.createElement("li");
      const track = element("div", "", "track");
      const bar = element("div", "", "bar");
      bar.style.width = `${100 * share}%`;
      track.append(bar);
      row.append(element("span", name, "name"), track, element("span", `${(100 * share).toFixed(1)} %`, "share"));
      return row;
    }),
  );
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
      const feeds = model.preprocess(drawing);
      const started = performance.now();
      const outputs = await model.run(feeds);
      const latency = performance.now() - started;
      const { data } = outputs[model.manifest.outputs[0].name];
      showScores(softmax(Array.from(data, Number)));
      await showFacts(latency);
    } while (isStale);
  } catch (error) {
    fail(error);
  } finally {
    isRunning = false;
  }
}

function softmax(logits) {
  const largest = Math.max(...logits);
  const powers = logits.map((value) => Math.exp(value - largest));
  const sum = powers.reduce((a, b) => a + b);
  return powers.map((value) => value / sum);
}

// --- the visitor's image -----------------------------------------------------------------------------

function listen() {
  const at = (event) => {
    const box = drawing.getBoundingClientRect();
    return [((event.clientX - box.left) * drawing.width) / box.width, ((event.clientY - box.top) * drawing.height) / box.height];
  };
  drawing.onpointerdown = (event) => {
    drawing.setPointerCapture(event.pointerId);
    pen.beginPath();
    pen.moveTo(...at(event));
  };
  drawing.onpointermove = (event) => {
    if (!event.buttons) return;
    pen.lineTo(...at(event));
    pen.stroke();
    run();
  };
  $("clear").onclick = clear;
  $("file").onchange = ({ target }) => target.files[0] && show(target.files[0]);
  drawing.ondragover = (event) => (event.preventDefault(), drawing.classList.add("over"));
  drawing.ondragleave = () => drawing.classList.remove("over");
  drawing.ondrop = (event) => {
    event.preventDefault();
    drawing.classList.remove("over");
    if (event.dataTransfer.files[0]) show(event.dataTransfer.files[0]);
  };
  document.onpaste = (event) => event.clipboardData.files[0] && show(event.clipboardData.files[0]);
  for (const id of ["variant", "device"]) {
    $(id).onchange = () => open({ variant: $("variant").value, device: $("device").value }).then(run, fail);
  }
}

async function show(file) {
  try {
    const picture = await createImageBitmap(file);
    pen.drawImage(picture, 0, 0, drawing.width, drawing.height);
  } catch {
    $("notes").textContent = `${file.name} is no image that this browser can read.`;
    return;
  }
  await run();
}

function clear() {
  pen.fillStyle = "#000";
  pen.fillRect(0, 0, drawing.width, drawing.height);
  Object.assign(pen, { strokeStyle: "#fff", lineWidth: PEN * drawing.width, lineCap: "round", lineJoin: "round" });
  $("answer").textContent = "Draw or choose an image";
  $("classes").replaceChildren();
}

function element(kind, text, className = "") {
  return Object.assign(document.createElement(kind), { textContent: text, className });
}

function mib(bytes) {
  return `${(bytes / 2 ** 20).toFixed(2)} MiB`;
}
