// Attention of a trained model: choose a text, a layer and a head; point at a token (mouse,
// finger, arrow keys) and see which tokens it reads.
const RGB = "61,133,200"; // legible on light and on dark

/** A function (layer, head, query, key) -> weight in 0..1 over the bytes of one text. */
function weights(text, heads) {
  const bytes = Uint8Array.from(atob(text.maps), (c) => c.charCodeAt(0));
  const n = text.tokens.length, size = (n * (n + 1)) / 2;
  return (layer, head, query, key) =>
    key > query ? 0 : bytes[(layer * heads + head) * size + (query * (query + 1)) / 2 + key] / 255;
}

/** The whole map of a head, one pixel a pair, faint weights lifted so that they can be seen. */
function paint(canvas, n, weight) {
  canvas.width = canvas.height = n;
  const brush = canvas.getContext("2d");
  for (let query = 0; query < n; query++) {
    for (let key = 0; key <= query; key++) {
      const w = weight(query, key);
      if (!w) continue;
      brush.fillStyle = `rgba(${RGB},${Math.sqrt(w).toFixed(3)})`;
      brush.fillRect(key, query, 1, 1);
    }
  }
}

const visible = (token) => token.replace(/\n/g, "⏎").replace(/^ /, "␣");

function render({ model, el }) {
  const { layers, heads, start, texts } = model.get("data");
  let [layer, head] = start, text, weight, asks;
  el.classList.add("cl-widget", "cl-attention-explorer");
  el.replaceChildren();
  const bar = make("div", { class: "cl-bar" }, el);
  const label = make("label", {}, bar, "Text ");
  const select = make("select", {}, label);
  texts.forEach((t, i) => make("option", { value: i }, select, t.name));
  const chosen = make("strong", {}, bar);

  const views = make("div", { class: "cl-views" }, el);
  const grid = make("div", { class: "cl-heads", role: "radiogroup", "aria-label": model.get("alt"),
    style: `--cl-n:${heads}` }, views);
  make("span", {}, grid);
  for (let h = 0; h < heads; h++) make("span", {}, grid, `head ${h}`);
  const small = [];
  for (let l = 0; l < layers; l++) {
    make("span", { title: `layer ${l}` }, grid, `L${l}`);
    for (let h = 0; h < heads; h++) {
      const button = make("button", { type: "button", role: "radio", "aria-label": `layer ${l}, head ${h}` }, grid);
      small.push({ button, canvas: make("canvas", {}, button), l, h });
      button.addEventListener("click", () => pick(l, h));
    }
  }
  const big = make("div", { class: "cl-big", title: "row: the token that asks; column: the token it reads" }, views);
  const map = make("canvas", { "aria-hidden": "true" }, big);
  const frame = make("div", { class: "cl-row" }, big);

  const strip = make("div", { class: "cl-tokens", role: "slider", tabindex: 0, "aria-valuemin": 0,
    "aria-label": "the token that asks" }, el);
  const panel = make("div", { class: "cl-panel", "aria-live": "polite" }, el);
  const said = make("strong", {}, panel), list = make("div", { class: "cl-sample" }, panel);
  make("div", { class: "cl-note" }, el,
    "Choose a head among the small maps (arrow keys move there too), then point at a token, or use the " +
    "arrow keys on the text. The darker a token, the more of it the framed token reads.");

  function open(index) {
    text = texts[index];
    weight = weights(text, heads);
    asks = text.tokens.length - 1;
    strip.replaceChildren();
    strip.setAttribute("aria-valuemax", asks);
    text.tokens.forEach((token, i) => {
      make("span", { "data-i": i }, strip, token.replace(/\n/g, "⏎\n"));
    });
    for (const s of small) paint(s.canvas, text.tokens.length, (q, k) => weight(s.l, s.h, q, k));
    pick(layer, head);
  }

  function pick(l, h) {
    [layer, head] = [l, h];
    for (const s of small) {
      const on = s.l === l && s.h === h;
      s.button.setAttribute("aria-checked", on);
      s.button.tabIndex = on ? 0 : -1;
    }
    chosen.textContent = `layer ${l}, head ${h}`;
    paint(map, text.tokens.length, (q, k) => weight(l, h, q, k));
    ask(asks);
  }

  function ask(index) {
    const n = text.tokens.length;
    asks = Math.max(0, Math.min(n - 1, index));
    frame.style.top = `${(100 * asks) / n}%`;
    frame.style.height = `${100 / n}%`;
    const read = text.tokens.map((_, key) => weight(layer, head, asks, key));
    [...strip.children].forEach((span, key) => {
      span.style.background = `rgba(${RGB},${(0.85 * Math.sqrt(read[key])).toFixed(3)})`;
      span.className = key === asks ? "cl-asks" : key > asks ? "cl-later" : "";
    });
    const best = read.map((w, key) => [w, key]).sort((a, b) => b[0] - a[0]).slice(0, 4).filter(([w]) => w > 0.02);
    const words = best.map(([w, key]) => `${Math.round(100 * w)} %  ${visible(text.tokens[key])}  (${
      key === asks ? "itself" : `${asks - key} back`})`);
    said.textContent = `Token ${asks}, ${visible(text.tokens[asks])}, reads`;
    list.textContent = words.join("\n");
    strip.setAttribute("aria-valuenow", asks);
    strip.setAttribute("aria-valuetext", `${said.textContent} ${words.join(", ")}`);
  }

  select.addEventListener("change", () => open(Number(select.value)));
  grid.addEventListener("keydown", (event) => {
    const moves = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
    if (!(event.key in moves)) return;
    event.preventDefault();
    const [dl, dh] = moves[event.key];
    pick((layer + dl + layers) % layers, (head + dh + heads) % heads);
    small[layer * heads + head].button.focus();
  });
  strip.addEventListener("keydown", (event) => {
    const moves = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1, Home: -1e9, End: 1e9 };
    if (!(event.key in moves)) return;
    event.preventDefault();
    ask(asks + moves[event.key]);
  });
  const over = (event) => event.target.dataset?.i !== undefined && ask(Number(event.target.dataset.i));
  strip.addEventListener("pointermove", over);
  strip.addEventListener("pointerdown", over);
  const across = (event) => {
    const box = map.getBoundingClientRect();
    ask(Math.floor(((event.clientY - box.top) / box.height) * text.tokens.length));
  };
  big.addEventListener("pointermove", across);
  big.addEventListener("pointerdown", across);
  open(0);
}

export default { render };
