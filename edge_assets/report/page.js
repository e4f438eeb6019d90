"use strict";
// Filters: rows by family and target, columns by scheme, cells by verdict. Plots are drawn when their target is opened.

const chosen = (name) => document.querySelector(`select[name=${name}]`).value;

function applyFilters() {
  const [family, target, scheme, verdict] = ["family", "target", "scheme", "verdict"].map(chosen);
  for (const row of document.querySelectorAll("[data-target]")) {
    const fits =
      (!family || row.dataset.family === family) &&
      (!target || row.dataset.target === target) &&
      (!verdict || row.dataset.verdicts.split(" ").includes(verdict));
    row.hidden = !fits;
  }
  for (const cell of document.querySelectorAll("[data-scheme]")) {
    cell.hidden = Boolean(scheme) && cell.dataset.scheme !== scheme;
  }
  for (const entry of document.querySelectorAll("[data-verdict]")) {
    entry.classList.toggle("faded", Boolean(verdict) && entry.dataset.verdict !== verdict);
  }
}

function draw(details) {
  const place = details.querySelector(".plot");
  const data = details.querySelector("script[type='application/json']");
  if (place && data && !place.hasChildNodes()) {
    Bokeh.embed.embed_item(JSON.parse(data.textContent), place);
  }
}

function openNamed() {
  const details = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (details instanceof HTMLDetailsElement) {
    details.open = true;
    details.scrollIntoView();
  }
}

document.querySelector("form").hidden = false;
document.querySelector("form").addEventListener("change", applyFilters);
for (const details of document.querySelectorAll("details[data-target]")) {
  details.addEventListener("toggle", () => details.open && draw(details));
}
window.addEventListener("hashchange", openNamed);
openNamed();
applyFilters();
