// A tokenizer in the page. Bytes are kept as strings of letters U+0000 to U+00FF, one a byte.
const MOST = 2000; // tokens shown

/** The bytes of text; half of a surrogate pair becomes U+FFFD, as in every encoder to UTF-8. */
const bytesOf = (text) => Array.from(new TextEncoder().encode(text), (b) => String.fromCharCode(b)).join("");

/** The text that bytes spell, or null where a character is cut. */
function textOf(bytes) {
  const raw = Uint8Array.from(bytes, (letter) => letter.charCodeAt(0));
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(raw);
  } catch {
    return null;
  }
}

const hexOf = (bytes) =>
  Array.from(bytes, (b) => b.charCodeAt(0).toString(16).toUpperCase().padStart(2, "0")).join(" ");

/** Byte pair encoding: merge the neighbors of lowest rank until no pair is a token. */
export function bpe(piece, ranks, below = Infinity) {
  const parts = [...piece];
  for (;;) {
    let best = below, at = -1;
    for (let i = 0; i + 1 < parts.length; i++) {
      const rank = ranks.get(parts[i] + parts[i + 1]);
      if (rank !== undefined && rank < best) [best, at] = [rank, i];
    }
    if (at < 0) return parts;
    parts.splice(at, 2, parts[at] + parts[at + 1]);
  }
}

/** What encodes: text -> ids, one piece of the split pattern after the other. */
export function encoder(pattern, tokens) {
  const ranks = new Map(tokens.map((token, rank) => [token, rank]));
  const split = new RegExp(pattern, "gu");
  const known = new Map();
  return (text) => {
    const ids = [];
    for (const [piece] of text.toWellFormed().matchAll(split)) {
      if (!known.has(piece)) known.set(piece, bpe(bytesOf(piece), ranks).map((t) => ranks.get(t)));
      for (const id of known.get(piece)) ids.push(id);
    }
    return ids;
  };
}

/** A token as it can be shown: its text, or its bytes in hexadecimal. */
function showToken(bytes, parent) {
  const text = textOf(bytes);
  const name = text === null || /^\p{Cc}$/u.test(text) && !/[\n\t]/.test(text) ? hexOf(bytes) : text;
  const visible = name.replaceAll(" ", text === null ? " " : "␣").replaceAll("\n", "⏎").replaceAll("\t", "⇥");
  return make("b", { class: text === null ? "cl-hex" : "" }, parent, visible);
}

function render({ model, el }) {
  const { pattern, tokens, text } = model.get("data");
  const encode = encoder(pattern, tokens);
  const ranks = new Map(tokens.map((token, rank) => [token, rank]));
  el.classList.add("cl-widget", "cl-tokenizer-playground");
  el.replaceChildren();
  const field = make("textarea", { rows: 3, spellcheck: false, "aria-label": "Text to tokenize" }, el, text);
  const summary = make("div", { class: "cl-note", "aria-live": "polite" }, el);
  const row = make("div", { class: "cl-tokens" }, el);
  const panel = make("div", { class: "cl-panel", "aria-live": "polite" }, el);

  function explain(id, button) {
    for (const other of row.children) other.setAttribute("aria-pressed", other === button);
    panel.replaceChildren();
    const bytes = tokens[id];
    make("strong", {}, panel, `Token ${id}`);
    make("span", {}, panel, `, ${bytes.length} byte${bytes.length > 1 ? "s" : ""}: ${hexOf(bytes)}`);
    const line = make("div", {}, panel);
    if (bytes.length === 1) return line.append("One of the 256 bytes that every vocabulary begins with.");
    const [left, right] = bpe(bytes, ranks, id);
    line.append(`Merge number ${id - 255}: `);
    showToken(left, line);
    line.append(` (${ranks.get(left)}) and `);
    showToken(right, line);
    line.append(` (${ranks.get(right)}).`);
  }
  function update() {
    const ids = encode(field.value), size = new TextEncoder().encode(field.value).length;
    const rate = ids.length ? `, ${(size / ids.length).toFixed(2)} bytes a token` : "";
    const cut = ids.length > MOST ? ` (the first ${MOST} are shown)` : "";
    summary.textContent =
      `${[...field.value].length} code points, ${size} bytes, ${ids.length} tokens${rate}${cut}`;
    row.dataset.ids = ids.join(" ");
    row.replaceChildren();
    for (const id of ids.slice(0, MOST)) {
      const button = make("button", { type: "button", "aria-pressed": false }, row);
      showToken(tokens[id], button);
      make("i", {}, button, id);
      button.addEventListener("click", () => explain(id, button));
    }
    panel.textContent = "Choose a token to see its bytes and the merge that made it.";
  }
  field.addEventListener("input", update);
  update();
}

export default { render };
