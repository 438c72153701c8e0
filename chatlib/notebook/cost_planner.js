// What a run would cost. The arithmetic repeats chatlib/scaling.py and chatlib/planner.py.
const GB = 1e9;
const sum = (parts) => Object.values(parts).reduce((a, b) => a + b, 0);

/** Depth to network, as scaling.model_config and GPTConfig have it. */
export function shape(scale, depth) {
  const heads = Math.ceil((scale.width_per_depth * depth) / scale.head_dim);
  const T = scale.sequence_len;
  const short = Math.min(T, Math.ceil(T / 4 / 128) * 128);
  const windows = Array.from({ length: depth }, (_, i) => (i === depth - 1 || "SSSL"[i % 4] === "L" ? T : short));
  return { depth, heads, width: heads * scale.head_dim, vocab: Math.ceil(scale.vocab_size / 64) * 64, T, windows };
}

/** How many numbers the model holds, as scaling.count_parameters. */
export function count({ depth, heads, width: c, vocab }) {
  const valueLayers = Math.ceil(depth / 2);
  const matrices = depth * 12 * c * c + valueLayers * heads * Math.min(12, c);
  const head = vocab * c;
  const total = vocab * c + valueLayers * vocab * c + matrices + head + 2 * depth + 2 + Math.min(24, c);
  return { matrices, scaling: matrices + head, total };
}

/** The run: depth and tokens a parameter decide the rest, as scaling.make_plan. */
export function plan(data, depth, ratio) {
  const form = shape(data.scale, depth), parameters = count(form);
  const flopsPerToken = 6 * parameters.scaling + 12 * form.width * sum(form.windows);
  const tokens = Math.trunc(ratio * parameters.scaling);
  const growth = parameters.scaling / data.reference_scaling;
  const batch = data.scale.batch_tokens || 2 ** Math.round(Math.log2(data.reference_batch * growth ** 0.383));
  const steps = Math.max(Math.floor(tokens / batch), 1);
  return { form, parameters, flopsPerToken, tokens, batch, steps };
}

/** Bytes on each GPU, as planner.memory. */
export function memory(data, { form, parameters }, rows, gpus, fp8) {
  const tokens = rows * form.T;
  return {
    weights: 4 * parameters.total + 2 * parameters.scaling,
    gradients: 4 * parameters.total,
    optimizer: (4 * (2 * parameters.total - parameters.matrices)) / gpus,
    activations: data.kept[fp8 ? 1 : 0] * tokens * form.depth * form.width,
    logits: 10 * Math.min(tokens * form.vocab, data.chunk),
    overhead: data.overhead,
  };
}

/** The largest power of two of rows that fits; 0 if none does, as planner.fitting_rows. */
export function fittingRows(data, run, free, gpus, fp8) {
  const share = Math.floor(Math.floor(run.batch / gpus) / run.form.T);
  let best = 0;
  for (let rows = 1; rows <= share && share % rows === 0; rows *= 2) {
    if (sum(memory(data, run, rows, gpus, fp8)) <= free) best = rows;
  }
  return best;
}

/** FLOP of Muon's five steps, as planner.muon_flops. */
export function muonFlops({ depth, width: c }) {
  const one = (m, n) => 5 * (4 * m * m * n + 2 * m ** 3);
  return depth * (4 * one(c, c) + 2 * one(c, 4 * c));
}

/** Attention's work in the mean step over that with whole windows, as planner.attention_work. */
function attentionWork(data, { windows, T }) {
  const met = (reach) => sum(windows.map((whole) => {
    const window = Math.min(Math.trunc(reach * whole), T);
    return window - window ** 2 / (2 * T) + (data.tile / 2) * (window < T ? 2 : 1);
  }));
  return 1 + data.scale.nearby * ((met(0.5) + met(0.25)) / 2 / met(1) - 1);
}

/** Seconds a step by component, as planner.step_time. */
export function stepTime(data, run, device, gpus, rows, fp8) {
  const { form, parameters } = run, rates = data.rates, tokens = run.batch / gpus;
  const micro = Math.max(tokens / (rows * form.T), 1), dense = 6 * parameters.scaling;
  const gemm = fp8 && device.fp8 ? device.fp8 * rates.fp8_gemm : device.bf16 * rates.bf16_gemm;
  const moved = device.bandwidth * rates.memory;
  return {
    gemm: (tokens * dense) / gemm,
    attention: (tokens * (run.flopsPerToken - dense)) / (device.bf16 * rates.attention),
    logits: (tokens * form.vocab * rates.logit_bytes) / moved,
    glue: (tokens * form.depth * form.width * rates.glue_bytes) / moved,
    accumulate: (micro * parameters.total * rates.accumulate_bytes) / moved,
    optimizer: muonFlops(form) / gpus / (device.bf16 * rates.muon),
    communication: (((2 * 4 * parameters.total * (gpus - 1)) / gpus) / device.link),
    data: rates.data_seconds,
  };
}

/** All of it, as planner.estimate. With `mfu` the seconds follow from that instead of the time model. */
export function project(data, { device: name, gpus, price, depth, ratio, fp8, mfu }) {
  const device = data.devices.find((d) => d.name === name);
  const run = plan(data, depth, ratio);
  const bytewise = fp8 && device.fp8 > 0;
  const rows = fittingRows(data, run, 0.94 * device.memory, gpus, bytewise);
  const parts = stepTime(data, run, device, gpus, Math.max(rows, 1), fp8);
  parts.attention *= attentionWork(data, run.form);
  const peak = device.bf16 * gpus, flops = run.batch * run.flopsPerToken;
  const seconds = mfu ? flops / (mfu * peak) : sum(parts);
  const bytes = memory(data, run, Math.max(rows, 1), gpus, bytewise);
  const hours = (seconds * run.steps) / 3600;
  return { ...run, rows, parts, bytes, seconds, hours, dollars: hours * gpus * price, mfu: flops / seconds / peak,
    need: sum(bytes), fits: rows > 0 && sum(bytes) <= device.memory, memory: device.memory };
}

const COLORS = ["#1b4f8a", "#c8501e", "#2a9d8f", "#d99a0b", "#7b3f98", "#56a8dd", "#70757a", "#a8adb3"];

/** A bar of parts, drawn to `whole`, with a mark at `limit`, and the names of the parts below it. */
function bar(el, parts, whole, limit, show) {
  el.replaceChildren();
  const strip = make("div", { class: "cl-strip", "aria-hidden": "true" }, el);
  const names = make("div", { class: "cl-names" }, el);
  Object.entries(parts).forEach(([name, size], i) => {
    make("i", { style: `width:${(100 * size) / whole}%;background:${COLORS[i]}`, title: name }, strip);
    const entry = make("span", {}, names);
    make("i", { style: `background:${COLORS[i]}` }, entry);
    entry.append(`${name} ${show(size)}`);
  });
  if (limit) make("b", { style: `left:${(100 * limit) / whole}%` }, strip);
}

function render({ model, el }) {
  const data = model.get("data"), fields = {};
  el.classList.add("cl-widget", "cl-cost-planner");
  el.replaceChildren();
  const form = make("div", { class: "cl-form", role: "group", "aria-label": model.get("alt") }, el);
  function field(name, text, kind, attributes, value) {
    const label = make("label", {}, form);
    const words = make("span", {}, label, text);
    const input = make(kind, { name, ...attributes }, label);
    if (kind === "select") for (const option of value.options) make("option", { value: option }, input, option);
    if (attributes.type === "checkbox") input.checked = value;
    else input.value = kind === "select" ? value.chosen : value;
    const said = attributes.type === "range" ? make("output", {}, words) : null;
    fields[name] = { input, said };
  }
  const names = data.devices.map((d) => d.name);
  field("device", "GPU", "select", {}, { options: names, chosen: data.start.device });
  field("gpus", "how many, in one machine", "select", {}, { options: [1, 2, 4, 8], chosen: data.start.gpus });
  field("price", "dollars an hour for each", "input", { type: "number", min: 0, step: 0.05 }, 0);
  field("depth", "depth ", "input", { type: "range", min: 4, max: 40, step: 1 }, data.scale.depth);
  field("ratio", "tokens a parameter ", "input", { type: "range", min: 2, max: 40, step: 0.1 }, data.scale.tokens_per_param);
  field("fp8", "8-bit products, where it can", "input", { type: "checkbox" }, data.scale.float8);
  field("own", "set the MFU by hand", "input", { type: "checkbox" }, false);
  field("mfu", "MFU ", "input", { type: "range", min: 5, max: 100, step: 1 }, 50);

  const panel = make("div", { class: "cl-panel", "aria-live": "polite" }, el);
  const headline = make("strong", {}, panel), detail = make("div", {}, panel);
  make("div", { class: "cl-caption" }, el, "Memory of each GPU; the mark is what it has");
  const bytes = make("div", { class: "cl-bytes" }, el);
  const timeTitle = make("div", { class: "cl-caption" }, el, "Seconds of one step");
  const times = make("div", { class: "cl-times" }, el);
  make("div", { class: "cl-note" }, el, "Projected from formulas, not run. Prices are what such cards rent for in mid-2026.");

  const priceOf = (name) => data.devices.find((d) => d.name === name).price;
  fields.price.input.value = priceOf(data.start.device);

  function update() {
    const at = (name) => Number(fields[name].input.value);
    const own = fields.own.input.checked;
    const asked = { device: fields.device.input.value, gpus: at("gpus"), price: at("price"), depth: at("depth"),
      ratio: at("ratio"), fp8: fields.fp8.input.checked, mfu: own ? at("mfu") / 100 : 0 };
    const got = project(data, asked);
    if (!own) fields.mfu.input.value = Math.round(100 * got.mfu);
    fields.mfu.input.disabled = !own;
    fields.depth.said.textContent = asked.depth;
    fields.ratio.said.textContent = asked.ratio;
    fields.mfu.said.textContent = `${Math.round(100 * got.mfu)} %`;
    const spread = own ? 0 : data.error;
    const range = (x, digits) => spread
      ? `${(x * (1 - spread)).toFixed(digits)} to ${(x * (1 + spread)).toFixed(digits)}` : x.toFixed(digits);
    headline.textContent = got.fits
      ? `${range(got.hours, 2)} hours, ${range(got.dollars, 0)} dollars`
      : "It does not fit: choose a smaller depth or a GPU with more memory";
    const million = (x) => (x / 1e6).toLocaleString("en", { maximumFractionDigits: 0 });
    detail.textContent = `${million(got.parameters.total)} million parameters, ${million(got.tokens)} million tokens, ` +
      `${got.steps.toLocaleString("en")} steps of ${got.batch.toLocaleString("en")} tokens` +
      (got.fits ? `, ${got.seconds.toFixed(3)} s each; ${got.rows} rows a micro-batch, ` +
        `${(got.need / GB).toFixed(1)} of ${(got.memory / GB).toFixed(0)} GB a GPU` : "");
    panel.dataset.fits = got.fits;
    bar(bytes, got.bytes, Math.max(got.need, got.memory), got.memory, (x) => `${(x / GB).toFixed(1)} GB`);
    times.hidden = timeTitle.hidden = own || !got.fits;
    bar(times, got.parts, sum(got.parts), 0, (x) => `${(1000 * x).toFixed(0)} ms`);
  }
  fields.device.input.addEventListener("change", () => {
    fields.price.input.value = priceOf(fields.device.input.value);
    update();
  });
  form.addEventListener("input", update);
  update();
}

export default { render };
