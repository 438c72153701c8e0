/* Brings the anywidgets of a page to life without a kernel and without a network.
   Reads the widget state that MyST-NB stores in the page and renders every anywidget view. */
(function () {
  "use strict";
  const STATE = 'script[type="application/vnd.jupyter.widget-state+json"]';
  const VIEW = 'script[type="application/vnd.jupyter.widget-view+json"]';

  /** The state of a saved model, its binary buffers put back where they belong. */
  function unpack(entry) {
    const state = structuredClone(entry.state);
    for (const buffer of entry.buffers || []) {
      const bytes = Uint8Array.from(atob(buffer.data), (c) => c.charCodeAt(0));
      let owner = state;
      for (const key of buffer.path.slice(0, -1)) owner = owner[key];
      owner[buffer.path.at(-1)] = new DataView(bytes.buffer);
    }
    return state;
  }

  /** What a widget's code sees of its model; views of one model share it. */
  class Model {
    constructor(state) {
      this.state = state;
      this.listeners = {};
    }
    get(key) {
      return this.state[key];
    }
    set(key, value) {
      const updates = typeof key === "object" ? key : { [key]: value };
      for (const [name, next] of Object.entries(updates)) {
        if (this.state[name] === next) continue;
        this.state[name] = next;
        this.emit("change:" + name, next);
      }
      this.emit("change");
    }
    save_changes() {}
    send() {}
    on(events, listener) {
      for (const event of events.split(" ")) (this.listeners[event] ||= []).push(listener);
    }
    off(event, listener) {
      if (!event) this.listeners = {};
      else if (!listener) delete this.listeners[event];
      else this.listeners[event] = (this.listeners[event] || []).filter((l) => l !== listener);
    }
    emit(event, ...values) {
      for (const listener of this.listeners[event] || []) listener(...values);
    }
  }

  /** Import a module from its source; from a blob, since file:// pages may not fetch. */
  async function load(source) {
    const url = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
    try {
      const module = await import(url);
      const widget = module.default ?? module;
      return typeof widget === "function" ? await widget() : widget;
    } finally {
      URL.revokeObjectURL(url);
    }
  }

  const styles = new Set();
  function addStyle(css) {
    if (!css || styles.has(css)) return;
    styles.add(css);
    const tag = document.createElement("style");
    tag.textContent = css;
    document.head.append(tag);
  }

  /** A model and its code, made once however many views show it. */
  async function start(entry) {
    const model = new Model(unpack(entry));
    addStyle(model.get("_css"));
    const widget = await load(model.get("_esm"));
    if (widget.initialize) await widget.initialize({ model, experimental: {} });
    return { model, widget };
  }

  async function show(tag, started) {
    const el = document.createElement("div");
    tag.before(el);
    try {
      const { model, widget } = await started;
      if (widget.render) await widget.render({ model, el, experimental: {} });
    } catch (error) {
      console.error(error);
      el.textContent = "This widget could not start: " + error;
    }
  }

  function main() {
    const entries = {};
    const started = {};
    for (const tag of document.querySelectorAll(STATE)) {
      Object.assign(entries, JSON.parse(tag.textContent).state);
    }
    for (const tag of document.querySelectorAll(VIEW)) {
      const id = JSON.parse(tag.textContent).model_id;
      if (entries[id]?.model_module !== "anywidget") continue;
      show(tag, (started[id] ||= start(entries[id])));
    }
  }

  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", main);
  else main();
})();
