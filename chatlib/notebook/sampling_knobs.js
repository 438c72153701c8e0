// One distribution and its knobs: move temperature, top-k, top-p and min-p, see what stays; draw.
const KNOBS = [ // name, label, lowest, highest, step, where it changes nothing
  ["temperature", "temperature", 0, 2, 0.05, 1],
  ["top_k", "top-k", 0, 50, 1, 0],
  ["top_p", "top-p", 0, 1, 0.01, 1],
  ["min_p", "min-p", 0, 0.5, 0.01, 0],
];

/** The probabilities of ranked logits, best first: 0 where a token is cut. As chatlib.sampling. */
export function cut(logits, { temperature = 1, top_k = 0, top_p = 1, min_p = 0 }) {
  if (temperature < 1e-5 || top_k === 1) return logits.map((_, i) => (i ? 0 : 1));
  const sizes = logits.map((score) => Math.exp((score - logits[0]) / temperature));
  const n = top_k || sizes.length;
  const total = sizes.slice(0, n).reduce((a, b) => a + b, 0);
  let before = 0;
  const kept = sizes.map((size, i) => {
    const stays = i === 0 || (i < n && before / total < top_p && size >= min_p * sizes[0]);
    before += size;
    return stays ? size : 0;
  });
  const sum = kept.reduce((a, b) => a + b, 0);
  return kept.map((size) => size / sum);
}

const visible = (token) => token.replaceAll("\n", "⏎").replace(/^ /, "␣");
const percent = (p) => (p >= 0.0995 ? (100 * p).toFixed(0) : (100 * p).toFixed(1)) + " %";

function render({ model, el }) {
  const { places } = model.get("data");
  const settings = Object.fromEntries(KNOBS.map(([name, , , , , off]) => [name, off]));
  let place = places[0], probs, drawn = [];
  el.classList.add("cl-widget", "cl-sampling-knobs");
  el.replaceChildren();
  const bar = make("div", { class: "cl-bar" }, el);
  const select = make("select", {}, make("label", {}, bar, "After "));
  places.forEach((p, i) => make("option", { value: i }, select, p.name));
  const reset = make("button", { type: "button" }, bar, "Reset");
  const draw = make("button", { type: "button" }, bar, "Draw 20 tokens");
  const knobs = make("div", { class: "cl-knobs" }, el);
  const fields = KNOBS.map(([name, label, low, high, step]) => {
    const row = make("label", {}, knobs);
    make("span", {}, row, label);
    const field = make("input", { type: "range", min: low, max: high, step, name }, row);
    const value = make("output", {}, row);
    field.addEventListener("input", () => {
      settings[name] = Number(field.value);
      update();
    });
    return { name, field, value };
  });
  const bars = make("div", { class: "cl-bars", role: "img" }, el);
  const panel = make("div", { class: "cl-panel", "aria-live": "polite" }, el);
  const said = make("strong", {}, panel), sample = make("div", { class: "cl-sample" }, panel);
  make("div", { class: "cl-note" }, el,
    "Bars show what each token's chance has become; the mark in each row is what the model gave it. Gray tokens are cut.");

  function update() {
    drawn = [];
    probs = cut(place.logits, settings);
    const own = cut(place.logits, {});
    for (const { name, field, value } of fields) {
      field.value = settings[name];
      const off = name === "top_k" && !settings[name];
      value.textContent = off ? "off" : settings[name].toFixed(name === "top_k" ? 0 : 2);
    }
    bars.replaceChildren();
    place.tokens.forEach((token, i) => {
      const row = make("div", { class: probs[i] ? "" : "cl-cut" }, bars);
      make("span", {}, row, visible(token));
      const line = make("span", { class: "cl-line" }, row);
      make("i", { style: `width:${100 * probs[i]}%` }, line);
      make("b", { style: `left:${100 * own[i]}%` }, line);
      make("span", {}, row, probs[i] ? percent(probs[i]) : "cut");
    });
    const stay = probs.filter((p) => p > 0).length;
    const held = own.reduce((sum, p, i) => sum + (probs[i] ? p : 0), 0);
    const bits = -probs.reduce((sum, p) => sum + (p ? p * Math.log2(p) : 0), 0);
    said.textContent = `${stay.toLocaleString("en")} of ${probs.length.toLocaleString("en")} tokens stay. ` +
      `The model gave them ${percent(held)}. ${bits.toFixed(2)} bits of choice.`;
    bars.setAttribute("aria-label", said.textContent);
    sample.textContent = "";
  }

  function throwDarts() {
    drawn = Array.from({ length: 20 }, () => {
      let dart = Math.random(), i = 0;
      while (i < probs.length - 1 && (dart -= probs[i]) >= 0) i++;
      return i < place.tokens.length ? visible(place.tokens[i]) : "(some other)";
    });
    sample.textContent = drawn.join("  ");
  }
  select.addEventListener("change", () => {
    place = places[Number(select.value)];
    update();
  });
  reset.addEventListener("click", () => {
    for (const [name, , , , , off] of KNOBS) settings[name] = off;
    update();
  });
  draw.addEventListener("click", throwDarts);
  update();
}

export default { render };
