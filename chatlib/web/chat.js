// The chat page: a conversation, the stream that extends it, and a look at each token.
"use strict";

const $ = (id) => document.getElementById(id);
const KNOBS = [ // field, label, lowest, highest, step, default, what it does
  ["temperature", "Temperature", 0, 2, 0.05, 0.7, "0 always takes the best token; higher is more daring"],
  ["top_k", "Top-k", 0, 200, 1, 50, "choose among the k best; 0 is all"],
  ["top_p", "Top-p", 0, 1, 0.01, 1, "choose among the best that together reach p"],
  ["min_p", "Min-p", 0, 1, 0.01, 0, "choose among tokens with at least this share of the best"],
  ["repetition_penalty", "Repetition", 0.5, 2, 0.05, 1, "above 1 avoids what was already said"],
  ["max_tokens", "Longest reply", 1, 4096, 1, 256, "in tokens"],
];
const IDEAS = ["What does Zoé do?", "How much is 58 - 19?", "What is the capital of Costa Rica?", "What is the opposite of buy?"];

// A message is {role, text} from the user, {role, parts, tokens, note} from the assistant.
let messages = JSON.parse(sessionStorage.getItem("messages") || "[]");
let settings = JSON.parse(localStorage.getItem("settings") || "{}");
let model = null;
let running = null; // the AbortController of the reply being written
let frame = null; // the next redrawing, once asked for
let lookInside = false;

// ---------------------------------------------------------------- talking to the server

function headers() {
  const key = sessionStorage.getItem("key");
  return { "Content-Type": "application/json", ...(key ? { Authorization: `Bearer ${key}` } : {}) };
}

async function connect() {
  try {
    const response = await fetch("v1/models", { headers: headers() });
    const answer = await response.json();
    if (!response.ok) throw new Error(answer.error.message);
    model = answer.data[0];
    $("model").textContent = model.id;
  } catch (error) {
    $("model").textContent = `no model: ${error.message}`;
  }
}

function request() {
  const said = messages.map((m) => m.role === "user"
    ? { role: "user", content: m.text }
    : { role: "assistant", content: m.parts.length ? m.parts.map(({ type, text }) => ({ type, text })) : "" });
  const system = $("system").value.trim();
  if (system) said.unshift({ role: "system", content: system });
  const knobs = Object.fromEntries(KNOBS.map(([name, , , , , normal]) => [name, settings[name] ?? normal]));
  return { model: model?.id ?? "", messages: said, stream: true, truncation: "auto", logprobs: true, top_logprobs: 6, ...knobs };
}

// The data of each server-sent event in a response, parsed.
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    buffer += value;
    const blocks = buffer.split("\n\n");
    buffer = blocks.pop();
    for (const block of blocks) {
      const data = block.replace(/^data: /, "");
      if (data === "[DONE]") return;
      yield JSON.parse(data);
    }
  }
}

async function answer() {
  if (!model) await connect();
  const body = JSON.stringify(request());
  const reply = { role: "assistant", parts: [], tokens: [], note: "" };
  messages.push(reply);
  running = new AbortController();
  draw();
  announce("The model is writing.");
  try {
    const response = await fetch("v1/chat/completions",
      { method: "POST", headers: headers(), body, signal: running.signal });
    if (!response.ok) throw new Error((await response.json()).error.message);
    for await (const chunk of events(response)) {
      if (chunk.error) throw new Error(chunk.error.message);
      absorb(reply, chunk);
      frame ??= requestAnimationFrame(redrawLast); // once a frame, however fast tokens come
    }
    announce("The reply is complete.");
  } catch (error) {
    reply.note = error.name === "AbortError" ? "Stopped." : error.message;
    reply.failed = error.name !== "AbortError";
    announce(reply.note);
  }
  running = null;
  draw();
  $("input").focus({ preventScroll: true });
}

function absorb(reply, chunk) {
  const choice = chunk.choices[0];
  if (!choice) return;
  const { part, text, forced, token } = choice.chatlib ?? {};
  if (text) {
    const last = reply.parts.at(-1);
    if (last?.type === part) last.text += text;
    else reply.parts.push({ type: part, text });
  }
  for (const entry of choice.logprobs?.content ?? []) reply.tokens.push({ part, ...entry });
  if (forced) reply.tokens.push({ part, token, forced });
  const notes = [];
  if (choice.finish_reason === "length") notes.push("The reply was cut off: it reached its longest length.");
  if (chunk.chatlib?.forgotten) notes.push("The start of the conversation no longer fits and was left out.");
  if (notes.length) reply.note = notes.join(" ");
  if (chunk.chatlib) showFacts(chunk.chatlib);
}

function showFacts({ tokens_per_second, cache_tokens, cache_bytes, context }) {
  $("speed").textContent = `${tokens_per_second.toLocaleString()} tokens/s`;
  $("cache").hidden = false;
  $("fill").value = cache_tokens / context;
  const size = cache_bytes < 1e6 ? `${(cache_bytes / 1e3).toFixed(0)} kB` : `${(cache_bytes / 1e6).toFixed(1)} MB`;
  $("cache-text").textContent = `cache ${cache_tokens} of ${context} tokens, ${size}`;
}

// ---------------------------------------------------------------- drawing the conversation

function draw() {
  sessionStorage.setItem("messages", JSON.stringify(messages));
  $("welcome").hidden = messages.length > 0;
  $("send").hidden = Boolean(running);
  $("stop").hidden = !running;
  $("log").setAttribute("aria-busy", String(Boolean(running)));
  $("log").replaceChildren(...messages.map(drawMessage));
  scrollDown(true);
}

function redrawLast() {
  frame = null;
  if (!running) return;
  const near = nearBottom();
  $("log").lastElementChild.replaceWith(drawMessage(messages.at(-1), messages.length - 1));
  scrollDown(near);
}

const nearBottom = () => innerHeight + scrollY > document.documentElement.scrollHeight - 120;
function scrollDown(wanted) { if (wanted) scrollTo(0, document.documentElement.scrollHeight); }

function drawMessage(message, index) {
  const mine = message.role === "user";
  const writing = running && index === messages.length - 1;
  const article = element("article", { class: message.role, "aria-label": mine ? "You" : "Model" });
  const body = element("div", { class: writing ? "body writing" : "body" });
  if (mine) body.append(message.text);
  else if (lookInside && message.tokens.length) body.append(drawTokens(message.tokens));
  else body.append(...drawParts(message.parts));
  article.append(body);
  if (message.note) article.append(element("p", message.failed ? { class: "note failed", role: "alert" } : { class: "note" }, message.note));
  if (!running) article.append(drawActions(message, index));
  return article;
}

// Text as blocks; a tool's call and result as a chip within the sentence that it interrupts.
function drawParts(parts) {
  const box = document.createDocumentFragment();
  parts.forEach((part, i) => {
    const open = box.lastElementChild?.matches("p") ? box.lastElementChild : null;
    const resumes = parts[i - 1] && parts[i - 1].type !== "text";
    if (part.type === "text") {
      const blocks = markdown(part.text);
      const first = blocks.firstElementChild;
      if (resumes && open && first?.matches("p")) {
        first.remove();
        open.append(/^\s/.test(part.text) ? " " : "", ...first.childNodes);
      }
      box.append(blocks);
    } else if (part.type === "python") {
      const next = parts[i + 1]?.type === "python_output" ? parts[i + 1] : null;
      (open ?? box).append(" ", toolChip(part.text, next?.text));
    } else if (parts[i - 1]?.type !== "python") (open ?? box).append(toolChip(null, part.text));
  });
  return box.childNodes;
}

function toolChip(call, result) {
  const chip = element("span", { class: "tool" }, element("span", { class: "tool-name" }, "calculator"));
  if (call !== null) chip.append(element("code", {}, call));
  if (result !== undefined) chip.append(element("span", { class: "arrow", role: "img", "aria-label": "gives" }, "→"), element("output", {}, result));
  return chip;
}

function drawActions(message, index) {
  const button = (label, action) => element("button", { type: "button", onclick: (event) => action(event.target) }, label);
  const row = element("div", { class: "actions" });
  if (message.role === "user") row.append(button("Edit", () => edit(index)), button("Copy", (b) => copyText(message.text, b)));
  else {
    row.append(button("Copy", (b) => copyText(message.parts.filter((p) => p.type === "text").map((p) => p.text).join(""), b)));
    if (index === messages.length - 1) row.append(button("Regenerate", regenerate));
  }
  return row;
}

// ---------------------------------------------------------------- looking inside

function drawTokens(tokens) {
  const box = element("div", { class: "tokens", role: "group", "aria-label": "Tokens; move with the arrow keys" });
  tokens.forEach((token, i) => {
    const probability = token.forced ? null : Math.exp(token.logprob);
    const label = `${visible(token)}, ${token.forced ? "written by the tool" : percent(probability)}`;
    const node = element("span", { class: `token ${token.part ?? ""}${token.forced ? " forced" : ""}`, tabindex: i ? "-1" : "0", role: "img", "aria-label": label }, visible(token));
    if (!token.forced) node.style.setProperty("--doubt", (1 - probability).toFixed(3));
    node.addEventListener("pointerenter", () => peek(node, token));
    node.addEventListener("focus", () => peek(node, token));
    for (const away of ["pointerleave", "blur"]) node.addEventListener(away, () => { $("peek").hidden = true; });
    box.append(node);
    if (/\n/.test(token.token)) box.append(element("br"));
  });
  box.addEventListener("keydown", (event) => {
    const step = { ArrowRight: "nextElementSibling", ArrowLeft: "previousElementSibling" }[event.key];
    if (!step) return;
    let next = event.target[step];
    while (next && !next.matches(".token")) next = next[step];
    if (!next) return;
    event.preventDefault();
    event.target.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  });
  return box;
}

const percent = (p) => (p > 0.9995 ? "100%" : p < 0.001 ? "< 0.1%" : `${(100 * p).toFixed(1)}%`);

// A token as a reader can see it: spaces and line ends marked, pieces of a character as bytes.
function visible({ token, bytes }) {
  if (token.includes("\ufffd") && bytes) return bytes.map((b) => `<${b.toString(16).toUpperCase().padStart(2, "0")}>`).join("");
  return token.replace(/ /g, "·").replace(/\n/g, "⏎").replace(/\t/g, "⇥");
}

function peek(node, token) {
  const box = $("peek");
  const rows = (token.top_logprobs ?? []).map((entry) => {
    const p = Math.exp(entry.logprob);
    const bar = element("span", { class: "bar" });
    bar.style.setProperty("--p", p.toFixed(4));
    const chosen = entry.token === token.token;
    return element("li", chosen ? { class: "chosen" } : {}, element("code", {}, visible(entry)), bar, element("span", {}, percent(p)));
  });
  const title = token.forced ? "Written by the tool, not chosen by the model" : `Chosen with ${percent(Math.exp(token.logprob))}`;
  box.replaceChildren(element("p", {}, element("code", {}, visible(token)), ` ${title}`), element("ol", {}, ...rows));
  box.hidden = false;
  const at = node.getBoundingClientRect();
  const left = Math.max(8, Math.min(at.left, innerWidth - box.offsetWidth - 8));
  const above = at.top - box.offsetHeight - 8;
  box.style.left = `${left}px`;
  box.style.top = `${above > 8 ? above : at.bottom + 8}px`;
}

// ---------------------------------------------------------------- what the reader does

function send(text) {
  if (running || !text.trim()) return;
  messages.push({ role: "user", text: text.trim() });
  answer();
}

function regenerate() {
  messages.pop();
  answer();
}

function edit(index) {
  const box = element("textarea", { "aria-label": "Edit your message", maxlength: "8000" });
  box.value = messages[index].text;
  const close = () => { draw(); };
  const save = () => {
    if (!box.value.trim()) return;
    messages = [...messages.slice(0, index), { role: "user", text: box.value.trim() }];
    answer();
  };
  box.addEventListener("keydown", (event) => {
    if (event.key === "Escape") close();
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); save(); }
  });
  const row = element("div", { class: "row" }, element("button", { type: "button", onclick: close }, "Cancel"), element("button", { type: "button", class: "main", onclick: save }, "Send again"));
  $("log").children[index].replaceChildren(element("div", { class: "editing" }, box, row));
  box.focus();
  fit(box);
}

function fit(box) {
  box.style.height = "auto";
  box.style.height = `${Math.min(box.scrollHeight, innerHeight * 0.4)}px`;
}

function announce(text) { $("status").textContent = text; }

function drawKnobs() {
  $("knobs").replaceChildren(...KNOBS.map(([name, label, low, high, step, normal, hint]) => {
    const value = settings[name] ?? normal;
    const range = element("input", { type: name === "max_tokens" ? "number" : "range", id: name, min: low, max: high, step, "aria-describedby": `${name}-hint` });
    range.value = value;
    const shown = element("output", { for: name }, String(value));
    range.addEventListener("input", () => {
      const number = Math.min(high, Math.max(low, Number(range.value)));
      settings[name] = number;
      shown.textContent = String(number);
      localStorage.setItem("settings", JSON.stringify(settings));
    });
    return element("div", { class: "knob" }, element("label", { for: name }, label), shown, range, element("small", { id: `${name}-hint` }, hint));
  }));
}

$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("input").value;
  if (running || !text.trim()) return;
  $("input").value = "";
  fit($("input"));
  send(text);
});
$("input").addEventListener("input", () => fit($("input")));
$("input").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); $("composer").requestSubmit(); }
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  $("peek").hidden = true;
  if (!$("settings").open) running?.abort();
});
$("stop").addEventListener("click", () => running?.abort());
$("new-chat").addEventListener("click", () => {
  running?.abort();
  messages = [];
  draw();
  $("input").focus();
});
$("inside").addEventListener("click", () => {
  lookInside = !lookInside;
  $("inside").setAttribute("aria-pressed", String(lookInside));
  $("peek").hidden = true;
  $("log").replaceChildren(...messages.map(drawMessage));
});
$("open-settings").addEventListener("click", () => $("settings").showModal());
$("settings").addEventListener("close", () => {
  sessionStorage.setItem("system", $("system").value);
  sessionStorage.setItem("key", $("key").value);
  connect();
});
$("reset").addEventListener("click", () => {
  settings = {};
  localStorage.removeItem("settings");
  drawKnobs();
});
addEventListener("scroll", () => { $("peek").hidden = true; }, { passive: true });

$("system").value = sessionStorage.getItem("system") || "";
$("key").value = sessionStorage.getItem("key") || "";
$("ideas").append(...IDEAS.map((text) => element("button", { type: "button", onclick: () => send(text) }, text)));
drawKnobs();
draw();
connect();
$("input").focus();
