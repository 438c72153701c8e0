// The loss curve of a run: point at a step (mouse, finger, arrow keys) and read its sample.

function draw(svg, data, width, chosen) {
  const { looks, train, levels } = data;
  const height = Math.max(220, Math.min(340, width * 0.5));
  const box = { left: 44, right: 14, top: 16, bottom: 40 };
  const last = looks[looks.length - 1].step;
  const values = [...looks.map((d) => d.bpb), ...levels.map((d) => d.bpb)];
  const top = Math.max(...values) * 1.04, bottom = Math.min(...values) * 0.9;
  const x = (step) =>
    box.left + (Math.log1p(step) / Math.log1p(last || 1)) * (width - box.left - box.right);
  const y = (bpb) =>
    box.top + ((top - bpb) / (top - bottom)) * (height - box.top - box.bottom);
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.replaceChildren();

  const stride = [0.1, 0.2, 0.5, 1, 2].find((s) => (top - bottom) / s < 7) ?? 5;
  for (let v = Math.ceil(bottom / stride) * stride; v <= top; v += stride) {
    make("line", { x1: box.left, x2: width - box.right, y1: y(v), y2: y(v), stroke: "var(--cl-line)" }, svg);
    make("text", { x: box.left - 8, y: y(v) + 4, "text-anchor": "end" }, svg, v.toFixed(stride < 1 ? 1 : 0));
  }
  const ticks = [0];
  for (let step = 1; step <= last; step *= 10) ticks.push(step);
  if (x(last) - x(ticks.at(-1)) > 45) ticks.push(last);
  for (const step of ticks) {
    make("text", { x: x(step), y: height - 22, "text-anchor": "middle" }, svg, step.toLocaleString("en"));
  }
  make("text", { x: (width + box.left) / 2, y: height - 4, "text-anchor": "middle" }, svg, "training step");
  make("text", { x: 2, y: 10 }, svg, "bits per byte");

  const path = (points) => points.map(([s, b], i) => `${i ? "L" : "M"}${x(s)} ${y(Math.min(b, top))}`).join("");
  if (train.length) {
    make("path", { d: path(train), fill: "none", stroke: "var(--cl-soft)", "stroke-opacity": 0.55 }, svg);
  }
  let above = -Infinity;
  for (const level of [...levels].sort((a, b) => b.bpb - a.bpb)) {
    const color = level.floor ? "var(--cl-teal)" : "var(--cl-vermilion)";
    const at = y(level.bpb), under = at - above < 16;
    make("line", { x1: box.left, x2: width - box.right, y1: at, y2: at, stroke: color, "stroke-width": 1.4,
      "stroke-dasharray": level.floor ? "none" : "5 4" }, svg);
    make("text", { x: box.left + 6, y: under ? at + 13 : at - 5, style: `fill:${color}` }, svg,
      `${level.name} ${level.bpb.toFixed(2)}`);
    above = at;
  }
  const curve = looks.map((d) => [d.step, d.bpb]);
  make("path", { d: path(curve), fill: "none", stroke: "var(--cl-blue)", "stroke-width": 2.4 }, svg);
  const here = looks[chosen];
  make("line", { x1: x(here.step), x2: x(here.step), y1: box.top, y2: height - box.bottom,
    stroke: "var(--cl-blue)", "stroke-opacity": 0.5 }, svg);
  looks.forEach((d, i) =>
    make("circle", { cx: x(d.step), cy: y(d.bpb), r: i === chosen ? 6 : 3, fill: "var(--cl-blue)" }, svg));
  return (px) => {
    const distances = looks.map((d) => Math.abs(x(d.step) - px));
    return distances.indexOf(Math.min(...distances));
  };
}

function render({ model, el }) {
  const data = model.get("data"), looks = data.looks;
  let chosen = looks.length - 1, nearest = () => chosen;
  el.classList.add("cl-widget", "cl-loss-explorer");
  el.replaceChildren();
  const svg = make("svg", { class: "cl-plot", role: "slider", tabindex: 0, "aria-label": model.get("alt"),
    "aria-valuemin": looks[0].step, "aria-valuemax": looks[chosen].step }, el);
  const panel = make("div", { class: "cl-panel", "aria-live": "polite" }, el);
  const heading = make("strong", {}, panel), sample = make("div", { class: "cl-sample" }, panel);
  make("div", { class: "cl-note" }, el, "Point at a step, or use the arrow keys, to read what the model wrote then.");

  function show(index) {
    chosen = Math.max(0, Math.min(looks.length - 1, index));
    const here = looks[chosen];
    nearest = draw(svg, data, Math.max(280, el.clientWidth || 700), chosen);
    svg.setAttribute("aria-valuenow", here.step);
    const said = `Step ${here.step.toLocaleString("en")}: ${here.bpb.toFixed(3)} bits per byte`;
    svg.setAttribute("aria-valuetext", said);
    heading.textContent = said;
    sample.textContent = here.text || "(no sample was taken here)";
  }
  const point = (event) => {
    const frame = svg.getBoundingClientRect();
    const index = nearest(((event.clientX - frame.left) / frame.width) * svg.viewBox.baseVal.width);
    if (index !== chosen) show(index);
  };
  svg.addEventListener("pointermove", point);
  svg.addEventListener("pointerdown", point);
  svg.addEventListener("keydown", (event) => {
    const moves = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, Home: -1e9, End: 1e9 };
    if (!(event.key in moves)) return;
    event.preventDefault();
    show(chosen + moves[event.key]);
  });
  let drawn = 0;
  const watcher = new ResizeObserver(() => {
    if (el.clientWidth !== drawn) show(chosen);
    drawn = el.clientWidth;
  });
  watcher.observe(el);
  show(chosen);
  return () => watcher.disconnect();
}

export default { render };
