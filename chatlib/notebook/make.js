// Stands before the code of every widget.

/** A new element below `parent`: HTML, or SVG where that is an SVG or `name` says so. */
function make(name, attributes, parent, text) {
  const space = name === "svg" ? "http://www.w3.org/2000/svg" : parent.namespaceURI;
  const made = document.createElementNS(space, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  parent.append(made);
  return made;
}

