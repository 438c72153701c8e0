/* The chat on the page: what chat.js writes is shown token by token, always as text. */
(function () {
  "use strict";
  const QUESTIONS = ["What does Zoé do?", "What is 48 + 37?", "What is the capital of France?"];
  const ROOM = 64; // tokens of the context that are kept free for the answer

  /** Make an element: its tag and classes, its attributes, and what is in it. */
  function make(kind, attributes = {}, ...children) {
    const [tag, ...classes] = kind.split(".");
    const element = document.createElement(tag);
    element.classList.add(...classes);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  }

  const percent = (share) => `${(100 * share).toFixed(share > 0.0995 && share < 0.9995 ? 0 : 2)} %`;
  const visible = (text) => text.replaceAll(" ", "␣").replaceAll("\n", "⏎") || "(part of a character)";

  /** The panel inside `root`, for a model as ci/page_model.py packs it. */
  function start(root, packed) {
    const tokenizer = new Chat.Tokenizer(packed);
    const model = new Chat.Model({ ...packed, ...packed.config });
    const name = (id) => visible(tokenizer.decode([id]));
    let turns = []; // {role, ids}: what has been said
    let stopped = false;
    let writing = false;

    const log = make("div.talk-log");
    const look = make("p.talk-look", { "aria-live": "polite" });
    const status = make("p.talk-status", { role: "status" });
    const input = make("input", { id: "talk-input", autocomplete: "off", maxlength: "400", enterkeyhint: "send" });
    const send = make("button.talk-main", { type: "submit" }, "Send");
    const stop = make("button", { type: "button" }, "Stop");
    const again = make("button", { type: "button" }, "New chat");
    const heat = make("input", { id: "talk-heat", type: "range", min: "0", max: "1.5", step: "0.1", value: "0" });
    const heatValue = make("output", { for: "talk-heat" }, "0.0");
    const asks = QUESTIONS.map((question) => make("button", { type: "button" }, question));
    const tries = make("div.talk-tries", { role: "group", "aria-label": "Questions to try" }, ...asks);
    const form = make("form", {},
      make("label.talk-hidden", { for: "talk-input" }, "Your message"), input, send, stop);
    const settings = make("div.talk-settings", {},
      make("label", { for: "talk-heat" }, "Temperature"), heat, heatValue, again);
    root.replaceChildren(log, tries, look, form, settings, status);
    stop.hidden = true;

    const { parameters, run } = packed.about;
    status.textContent = `${(parameters / 1e6).toFixed(2)} million parameters, run “${run}”, in this page.`;
    heat.addEventListener("input", () => (heatValue.value = Number(heat.value).toFixed(1)));
    stop.addEventListener("click", () => (stopped = true));
    asks.forEach((button) => button.addEventListener("click", () => ask(button.textContent)));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (input.value.trim()) ask(input.value.trim());
    });
    again.addEventListener("click", () => {
      stopped = true;
      turns = [];
      log.replaceChildren();
      look.textContent = "";
      tries.hidden = false;
      input.focus();
    });

    async function ask(question) {
      if (writing) return;
      const mine = { role: "user", ids: tokenizer.encode(question) };
      const kept = [...turns, mine];
      while (kept.length > 1 && Chat.prompt(tokenizer, kept).length > model.sequence_len - ROOM) kept.splice(0, 2);
      const prompt = Chat.prompt(tokenizer, kept);
      if (prompt.length >= model.sequence_len) {
        status.textContent = `That is too long: this model reads ${model.sequence_len} tokens in all.`;
        return;
      }
      [writing, stopped, input.value] = [true, false, ""];
      [stop.hidden, send.hidden, tries.hidden] = [false, true, true];
      log.append(make("div.talk-you", {}, question));
      const theirs = { role: "assistant", ids: [] };
      const began = performance.now();
      const forgets = kept.length < turns.length + 1;
      turns = [...kept, theirs];
      await write(prompt, theirs);
      const speed = (theirs.ids.length / (performance.now() - began)) * 1000;
      status.textContent = `${theirs.ids.length} tokens, ${speed.toFixed(0)} a second.`
        + (forgets ? " The start of the conversation no longer fits and was left out." : "");
      [writing, stop.hidden, send.hidden] = [false, true, false];
      input.focus({ preventScroll: true });
    }

    /** Show a reply as it is written, with a pause after each token for the page to be drawn. */
    async function write(prompt, turn) {
      const text = make("span");
      const cursor = make("span.talk-cursor", { "aria-hidden": "true" });
      const box = make("div.talk-model", {
        tabindex: "0", role: "group", "aria-label": "Reply; the arrow keys walk through its tokens",
      }, text, cursor);
      log.append(box);
      watch(box);
      const decoder = new TextDecoder();
      const specials = new Set(Object.values(tokenizer.special));
      let kind = "text";
      for (const token of Chat.reply(model, tokenizer, prompt, { temperature: Number(heat.value) })) {
        const id = token.id;
        if (id === tokenizer.special["<|assistant_end|>"] || id === tokenizer.special["<|bos|>"]) break;
        turn.ids.push(id);
        const opened = { "<|python_start|>": "call", "<|output_start|>": "output" }[tokenizer.tokens[id]];
        if (specials.has(id)) kind = opened || "text";
        const shown = specials.has(id) ? "" : decoder.decode(tokenizer.bytes(id), { stream: true });
        const piece = make(`span.talk-token.talk-${kind}`, {}, shown);
        piece.token = { ...token, text: shown };
        if (!token.forced) piece.style.setProperty("--doubt", (1 - token.probability).toFixed(3));
        text.append(piece);
        log.scrollTop = log.scrollHeight;
        await new Promise((resolve) => setTimeout(resolve, 12));
        if (stopped) break;
      }
      text.append(decoder.decode());
      cursor.remove();
      if (!text.textContent) text.append(make("em", {}, "(nothing)"));
    }

    /** Say of the token under the pointer, or under the arrow keys, how probable it was. */
    function watch(box) {
      const choose = (piece) => {
        root.querySelector(".talk-chosen")?.classList.remove("talk-chosen");
        piece.classList.add("talk-chosen");
        look.textContent = describe(piece.token);
      };
      box.addEventListener("pointerover", (event) => {
        if (event.target.token) choose(event.target);
      });
      box.addEventListener("keydown", (event) => {
        const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
        const pieces = [...box.querySelectorAll(".talk-token")];
        if (!step || !pieces.length) return;
        event.preventDefault();
        const at = pieces.indexOf(box.querySelector(".talk-chosen"));
        choose(pieces[Math.min(Math.max(at + step, 0), pieces.length - 1)]);
      });
    }

    function describe({ id, forced, probability, alternatives }) {
      if (forced) return `“${name(id)}” was written by the calculator.`;
      const others = alternatives.filter(([other]) => other !== id).slice(0, 4);
      const list = others.map(([other, share]) => `“${name(other)}” ${percent(share)}`).join(", ");
      return `“${name(id)}” had ${percent(probability)}. Others: ${list}.`;
    }
  }

  const root = document.getElementById("talk");
  if (globalThis.CHAT_MODEL) start(root, globalThis.CHAT_MODEL);
  else root.textContent = "The model is missing from these pages: build them with make book.";
})();
