/** An image that the visitor draws, picks, drops or pastes. */

import { showClasses, showHint } from "./demo-scores.js";
import { fromPicture, openPicture } from "./preprocess.js";

const PEN = 0.075; // of the drawing's side
const $ = (id) => document.getElementById(id);
const drawing = $("drawing");
const pen = drawing.getContext("2d", { willReadFrequently: true });
let opened = null; // the file's own pixels, while the drawing shows nothing else

/** @param {import("./loader.js").Manifest} manifest @param {() => Promise<void>} run called when the image changed */
export function imageInput(manifest, run) {
  $("input").hidden = false;
  listen(manifest.preprocessing, run);
  clear();
  return { feeds: (model) => feeds(model.manifest.preprocessing), show: showClasses };
}

function feeds(declared) {
  if (opened) return fromPicture(opened, declared);
  // a drawing has no size of its own: a model that resizes nothing gets it stretched
  const stretched = { ...declared, resize: declared.resize ?? "stretch" };
  return fromPicture(drawing, stretched);
}

function listen(declared, run) {
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
    opened = null;
    pen.lineTo(...at(event));
    pen.stroke();
    run();
  };
  $("clear").onclick = clear;
  $("file").onchange = ({ target }) => target.files[0] && show(target.files[0], declared, run);
  drawing.ondragover = (event) => (event.preventDefault(), drawing.classList.add("over"));
  drawing.ondragleave = () => drawing.classList.remove("over");
  drawing.ondrop = (event) => {
    event.preventDefault();
    drawing.classList.remove("over");
    if (event.dataTransfer.files[0]) show(event.dataTransfer.files[0], declared, run);
  };
  document.onpaste = (event) => event.clipboardData.files[0] && show(event.clipboardData.files[0], declared, run);
}

async function show(file, declared, run) {
  let picture;
  try {
    picture = await openPicture(file);
  } catch (error) {
    $("notes").textContent = `${file.name} is no image that this browser can read: ${error.message}`;
    return;
  }
  try {
    fromPicture(picture, declared);
  } catch (error) {
    $("notes").textContent = `${file.name}: ${error.message}.`;
    return;
  }
  pen.drawImage(await createImageBitmap(picture), 0, 0, drawing.width, drawing.height);
  opened = picture;
  await run();
}

function clear() {
  opened = null;
  pen.fillStyle = "#000";
  pen.fillRect(0, 0, drawing.width, drawing.height);
  Object.assign(pen, { strokeStyle: "#fff", lineWidth: PEN * drawing.width, lineCap: "round", lineJoin: "round" });
  showHint("Draw or choose an image");
}
