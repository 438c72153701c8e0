// Markdown to DOM nodes. Text from a model only ever becomes text nodes, so nothing in it can run.
"use strict";

function element(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (value !== false && value !== null) node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children);
  return node;
}

const INLINE = [
  [/^(`+)([\s\S]*?[^`])\1(?!`)/, (m) => element("code", {}, m[2])],
  [/^\*\*(?=\S)([\s\S]*?\S)\*\*/, (m) => element("strong", {}, ...inline(m[1]))],
  [/^__(?=\S)([\s\S]*?\S)__(?!\w)/, (m) => element("strong", {}, ...inline(m[1]))],
  [/^\*(?=\S)([^*]*?\S)\*(?!\*)/, (m) => element("em", {}, ...inline(m[1]))],
  [/^_(?=\S)([^_]*?\S)_(?!\w)/, (m) => element("em", {}, ...inline(m[1]))],
  [/^~~(?=\S)([\s\S]*?\S)~~/, (m) => element("del", {}, ...inline(m[1]))],
  [/^\[([^\]\n]+)\]\((https?:\/\/[^\s)]+)\)/, (m) => link(m[2], inline(m[1]))],
  [/^https?:\/\/[^\s<>"')\]]*[\w/]/, (m) => link(m[0], [m[0]])],
];

function link(href, children) {
  return element("a", { href, target: "_blank", rel: "noopener noreferrer" }, ...children);
}

// The inline marks of one stretch of text: an array of nodes and strings.
function inline(text) {
  const nodes = [];
  let plain = "";
  for (let i = 0; i < text.length; ) {
    const rest = /[`*_~[h]/.test(text[i]) ? text.slice(i) : "";
    const wordBefore = i > 0 && /\w/.test(text[i - 1]) && text[i] !== "`" && text[i] !== "*";
    const found = rest && !wordBefore && INLINE.map(([rule, make]) => [rule.exec(rest), make]).find(([m]) => m);
    if (!found) { plain += text[i++]; continue; }
    if (plain) nodes.push(plain);
    plain = "";
    nodes.push(found[1](found[0]));
    i += found[0][0].length;
  }
  return plain ? [...nodes, plain] : nodes;
}

// Block structure, one line at a time: fences, headings, quotes, lists, rules, paragraphs.
function markdown(source) {
  const root = document.createDocumentFragment();
  const lines = source.replace(/\r\n?/g, "\n").split("\n");
  let i = 0;
  const take = (rule) => {
    const taken = [];
    while (i < lines.length && rule.test(lines[i])) taken.push(lines[i++]);
    return taken;
  };
  while (i < lines.length) {
    const line = lines[i];
    let match;
    if (!line.trim()) { i++; }
    else if ((match = /^\s*(```+|~~~+)\s*(\w*)/.exec(line))) {
      const body = [];
      for (i++; i < lines.length && !lines[i].trim().startsWith(match[1]); i++) body.push(lines[i]);
      i++;
      root.append(codeBlock(body.join("\n"), match[2]));
    } else if ((match = /^(#{1,6})\s+(.*?)\s*#*$/.exec(line))) {
      i++;
      root.append(element(`h${Math.min(6, match[1].length + 2)}`, {}, ...inline(match[2])));
    } else if (/^\s*([-*_])(\s*\1){2,}\s*$/.test(line)) {
      i++;
      root.append(element("hr"));
    } else if (/^\s*>/.test(line)) {
      const quoted = take(/^\s*>/).map((text) => text.replace(/^\s*> ?/, ""));
      const quote = element("blockquote");
      quote.append(markdown(quoted.join("\n")));
      root.append(quote);
    } else if ((match = /^\s*([-*+]|\d{1,9}[.)])\s+/.exec(line))) {
      const ordered = /\d/.test(match[1]);
      const items = take(ordered ? /^\s*\d{1,9}[.)]\s+/ : /^\s*[-*+]\s+/);
      const list = element(ordered ? "ol" : "ul", ordered ? { start: parseInt(match[1], 10) } : {});
      for (const item of items) list.append(element("li", {}, ...inline(item.replace(/^\s*\S+\s+/, ""))));
      root.append(list);
    } else {
      const paragraph = [lines[i++], ...take(/^(?!\s*$|\s*(```|~~~|>|[-*+]\s|\d{1,9}[.)]\s)|#{1,6}\s)/)];
      root.append(element("p", {}, ...inline(paragraph.join("\n"))));
    }
  }
  return root;
}

function codeBlock(text, language) {
  const copy = element("button", { type: "button", class: "copy-code", onclick: () => copyText(text, copy) }, "Copy");
  const head = element("div", { class: "code-head" }, element("span", {}, language || "code"), copy);
  return element("div", { class: "code" }, head, element("pre", { tabindex: "0" }, element("code", {}, text)));
}

async function copyText(text, button) {
  try {
    await navigator.clipboard.writeText(text);
  } catch { // no clipboard without https or permission: select a hidden box instead
    const box = element("textarea", { class: "hidden" });
    box.value = text;
    document.body.append(box);
    box.select();
    document.execCommand("copy");
    box.remove();
  }
  const label = button.textContent;
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = label; }, 1200);
}
