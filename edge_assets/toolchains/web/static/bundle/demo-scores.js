/** The right half of the demo page: an answer, and rows of names with bars. */

const SHOWN = 10; // rows

/** @param {{name: string, share: number, text: string}[]} rows from the best down; `share` is the bar's, 0 to 1 */
export function showRows(rows) {
  document.getElementById("answer").textContent = rows[0].name;
  document.getElementById("classes").replaceChildren(
    ...rows.slice(0, SHOWN).map(({ name, share, text }) => {
      const row = document.createElement("li");
      const track = element("div", "", "track");
      const bar = element("div", "", "bar");
      bar.style.width = `${100 * share}%`;
      track.append(bar);
      row.append(element("span", name, "name"), track, element("span", text, "share"));
      return row;
    }),
  );
}

/** Logits as classes. */
export function showClasses({ data }, { class_names: names }) {
  const rows = softmax(Array.from(data, Number)).map((share, i) => ({
    name: names[i] ?? `class ${i}`,
    share,
    text: `${(100 * share).toFixed(1)} %`,
  }));
  showRows(rows.sort((a, b) => b.share - a.share));
}

/** Before there is anything to show. */
export function showHint(text) {
  document.getElementById("answer").textContent = text;
  document.getElementById("classes").replaceChildren();
}

function softmax(logits) {
  const largest = Math.max(...logits);
  const powers = logits.map((value) => Math.exp(value - largest));
  const sum = powers.reduce((a, b) => a + b);
  return powers.map((value) => value / sum);
}

function element(kind, text, className) {
  return Object.assign(document.createElement(kind), { textContent: text, className });
}
