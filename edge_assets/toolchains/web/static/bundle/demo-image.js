/** An image that the visitor draws, picks, drops or pastes. */

import { showClasses, showHint } from "./demo-scores.js";

const PEN = 0.075; // of the drawing's side
const $ = (id) => document.getElementById(id);
const drawing = $("drawing");
const pen = drawing.getContext("2d", { willReadFrequently: true });

/** @param {unknown} _manifest @param {() => Promise<void>} run called whenever the image changed */
export function imageInput(_manifest, run) {
  $("input").hidden = false;
  listen(run);
  clear();
  return { feeds: (model) => model.preprocess(drawing), show: showClasses };
}

function listen(run) {
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
  $("file").onchange = ({ target }) => target.files[0] && show(target.files[0], run);
  drawing.ondragover = (event) => (event.preventDefault(), drawing.classList.add("over"));
  drawing.ondragleave = () => drawing.classList.remove("over");
  drawing.ondrop = (event) => {
    event.preventDefault();
    drawing.classList.remove("over");
    if (event.dataTransfer.files[0]) show(event.dataTransfer.files[0], run);
  };
  document.onpaste = (event) => event.clipboardData.files[0] && show(event.clipboardData.files[0], run);
}

async function show(file, run) {
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
  showHint("Draw or choose an image");
}
