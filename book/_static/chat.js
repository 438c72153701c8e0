/* A chat model in a page: tokenizer, network, sampler and calculator, in plain JavaScript.

   The same as chatlib's tokenizer, model, engine and tools for one reply at a time, and tested to
   write the same tokens. It asks nothing of the network: the weights come with the page. */
(function () {
  "use strict";

  /** Text to token ids and back. `tokens` are base64, in rank order. */
  class Tokenizer {
    constructor({ pattern, tokens, specials }) {
      const source = pattern // the same pattern, in JavaScript's dialect
        .replace("(?i:[sdmt]|ll|ve|re)", "(?:[sdmtSDMT\\u017f]|[lL][lL]|[vV][eE]|[rR][eE])")
        .replaceAll("\\s", "\\p{White_Space}")
        .replaceAll("\\S", "\\P{White_Space}");
      this.pieces = new RegExp(source, "gu");
      this.tokens = [...tokens.map(atob), ...specials]; // strings with a character a byte
      this.ranks = new Map(tokens.map((token, rank) => [atob(token), rank]));
      this.special = Object.fromEntries(specials.map((name, i) => [name, tokens.length + i]));
    }

    encode(text) {
      return (text.match(this.pieces) || []).flatMap((piece) => this.merge(piece));
    }

    /** Merge the lowest-ranked pair of a piece until no pair is a token. */
    merge(piece) {
      const parts = Array.from(new TextEncoder().encode(piece), (byte) => String.fromCharCode(byte));
      for (;;) {
        let best = Infinity;
        let at = -1;
        for (let i = 0; i + 1 < parts.length; i++) {
          const rank = this.ranks.get(parts[i] + parts[i + 1]);
          if (rank < best) [best, at] = [rank, i];
        }
        if (at < 0) return parts.map((part) => this.ranks.get(part));
        parts.splice(at, 2, parts[at] + parts[at + 1]);
      }
    }

    bytes(id) {
      return Uint8Array.from(this.tokens[id], (character) => character.charCodeAt(0));
    }

    decode(ids) {
      return new TextDecoder().decode(Uint8Array.from(ids.flatMap((id) => [...this.bytes(id)])));
    }
  }

  const sigmoid = (z) => 1 / (1 + Math.exp(-z));

  /** Divide a vector by its root mean square, and multiply it by `scale`. */
  function norm(x, scale = 1) {
    let sum = 0;
    for (const value of x) sum += value * value;
    const factor = scale / Math.sqrt(sum / x.length + 2 ** -23);
    return x.map((value) => value * factor);
  }

  /** A matrix, its rows one after the other, times a vector. */
  function times(matrix, x) {
    const y = new Float64Array(matrix.length / x.length);
    for (let row = 0, i = 0; row < y.length; row++) {
      let sum = 0;
      for (let column = 0; column < x.length; column++) sum += matrix[i++] * x[column];
      y[row] = sum;
    }
    return y;
  }

  /** Scores to probabilities. */
  function softmax(scores) {
    const largest = scores.reduce((a, b) => Math.max(a, b), -Infinity);
    const weights = scores.map((score) => Math.exp(score - largest));
    const sum = weights.reduce((a, b) => a + b, 0);
    return weights.map((weight) => weight / sum);
  }

  /** The network, which reads one token at a time and remembers keys and values in a cache. */
  class Model {
    constructor({ config, tensors, data }) {
      Object.assign(this, config);
      const numbers = unpack(data);
      this.weights = {};
      let start = 0;
      for (const [name, size] of tensors) {
        this.weights[name] = numbers.subarray(start, (start += size));
      }
    }

    cache() {
      const empty = () => Array.from({ length: this.n_layer }, () => []);
      return { keys: empty(), values: empty(), previous: null, length: 0 };
    }

    /** Read token `id` after what is in the cache; the scores of every token that may follow. */
    read(id, cache) {
      const W = this.weights;
      const C = this.n_embd;
      const embedded = norm(Float64Array.from(W["embedding.weight"].subarray(id * C, id * C + C)));
      const first = this.smear(embedded, cache.previous);
      let x = first;
      let middle;
      for (let layer = 0; layer < this.n_layer; layer++) {
        const [keep, again] = [W.residual_scales[layer], W.embedding_scales[layer]];
        x = x.map((value, c) => keep * value + again * first[c]);
        const heard = this.attention(layer, norm(x), id, cache);
        x = x.map((value, c) => value + heard[c]);
        const wide = times(W[`blocks.${layer}.mlp.up.weight`], norm(x));
        const squared = wide.map((value) => Math.max(value, 0) ** 2);
        const thought = times(W[`blocks.${layer}.mlp.down.weight`], squared);
        x = x.map((value, c) => value + thought[c]);
        if (layer === Math.floor(this.n_layer / 2)) middle = x;
      }
      cache.previous = embedded;
      cache.length += 1;
      x = norm(x.map((value, c) => value - W.backout_scale[0] * middle[c]));
      const scores = times(W["head.weight"].subarray(0, this.vocab_size * C), x);
      return scores.map((z) => this.softcap * Math.tanh(z / this.softcap));
    }

    /** Let a little of the previous token's embedding leak into this one's. */
    smear(x, previous) {
      if (!previous) return x;
      const gate = this.weights["smear_gate.weight"];
      const share = this.weights.smear_scale[0] * sigmoid(times(gate, x.subarray(0, gate.length))[0]);
      return x.map((value, c) => value + share * previous[c]);
    }

    /** What the token hears from itself and from those before it, in one layer. */
    attention(layer, x, id, cache) {
      const W = this.weights;
      const D = this.n_embd / this.n_head;
      const qkv = times(W[`blocks.${layer}.attention.qkv.weight`], x);
      const heads = Array.from({ length: qkv.length / D }, (_, h) => qkv.subarray(h * D, h * D + D));
      const turn = (head) => norm(this.rotate(head, cache.length), this.qk_scale);
      const queries = heads.slice(0, this.n_head).map(turn);
      cache.keys[layer].push(heads.slice(this.n_head, this.n_head + this.n_kv_head).map(turn));
      cache.values[layer].push(this.values(layer, heads.slice(-this.n_kv_head), x, id));

      const heard = new Float64Array(this.n_embd);
      const oldest = Math.max(0, cache.length - this.windows[layer]);
      const keys = cache.keys[layer].slice(oldest);
      const values = cache.values[layer].slice(oldest);
      queries.forEach((query, h) => {
        const shared = Math.floor((h * this.n_kv_head) / this.n_head);
        const weights = softmax(keys.map((key) => times(key[shared], query)[0] / Math.sqrt(D)));
        weights.forEach((weight, j) => {
          for (let c = 0; c < D; c++) heard[h * D + c] += weight * values[j][shared][c];
        });
      });
      return times(W[`blocks.${layer}.attention.out.weight`], heard);
    }

    /** The values of a layer, with its value table's row for this token mixed in if it has one. */
    values(layer, heads, x, id) {
      const table = this.weights[`value_embeddings.${layer}.weight`];
      if (!table) return heads;
      const gate = this.weights[`blocks.${layer}.attention.value_gate.weight`];
      const open = times(gate, x.subarray(0, gate.length / heads.length));
      const D = heads[0].length;
      return heads.map((head, h) => {
        const row = (id * heads.length + h) * D;
        return head.map((value, c) => value + 3 * sigmoid(open[h]) * table[row + c]);
      });
    }

    /** Turn each pair (i, i + D/2) by an angle that grows with the position. */
    rotate(head, position) {
      const half = head.length / 2;
      return head.map((value, i) => {
        const angle = position * this.rope_base ** (-(i % half) / half);
        const other = i < half ? -head[i + half] : head[i - half];
        return value * Math.cos(angle) + other * Math.sin(angle);
      });
    }
  }

  /** Base64 of half-precision numbers, lowest byte first, as 32-bit ones. */
  function unpack(base64) {
    const raw = atob(base64);
    const numbers = new Float32Array(raw.length / 2);
    for (let i = 0; i < numbers.length; i++) {
      const bits = raw.charCodeAt(2 * i) | (raw.charCodeAt(2 * i + 1) << 8);
      const exponent = (bits >> 10) & 31;
      const fraction = bits & 1023;
      const size = exponent ? (1 + fraction / 1024) * 2 ** (exponent - 15) : fraction * 2 ** -24;
      numbers[i] = bits & 0x8000 ? -size : size;
    }
    return numbers;
  }

  /** The ids of a conversation up to the assistant's turn: [{role, ids}, …] of user and assistant. */
  function prompt(tokenizer, turns) {
    const special = (name) => tokenizer.special[`<|${name}|>`];
    const ids = [special("bos")];
    for (const { role, ids: said } of turns) {
      ids.push(special(`${role}_start`), ...said, special(`${role}_end`));
    }
    return [...ids, special("assistant_start")];
  }

  /** The best token at temperature 0; else one of the 50 best, by chance. */
  function choose(scores, temperature, random) {
    const ranked = Array.from(scores.keys()).sort((a, b) => scores[b] - scores[a]);
    if (temperature < 1e-5) return ranked[0];
    const best = ranked.slice(0, 50);
    const shares = softmax(best.map((id) => scores[id] / temperature));
    let left = random();
    return best[Math.max(0, shares.findIndex((share) => (left -= share) < 0))];
  }

  /** Write a reply token by token: {id, forced, probability, alternatives}. What the calculator
   * says is forced: written by the tool, not chosen by the model. */
  function* reply(model, tokenizer, ids, options = {}) {
    const { maxTokens = 256, temperature = 0, random = Math.random } = options;
    const special = (name) => tokenizer.special[`<|${name}|>`];
    const cache = model.cache();
    let scores;
    for (const id of ids) scores = model.read(id, cache);
    const forced = [];
    let call = null; // ids of the tool call being written
    for (let written = 1; ; written++) {
      const free = forced.length === 0;
      const id = free ? choose(scores, temperature, random) : forced.shift();
      yield free ? { id, forced: false, ...weigh(scores, id) } : { id, forced: true };
      const ended = free && (id === special("assistant_end") || id === special("bos"));
      if (ended || written >= maxTokens || ids.length + written >= model.sequence_len) return;
      if (id === special("python_start")) call = [];
      else if (id === special("python_end") && call) {
        const result = calculate(tokenizer.decode(call));
        if (result !== null) {
          forced.push(special("output_start"), ...tokenizer.encode(result), special("output_end"));
        }
        call = null;
      } else if (call) call.push(id);
      scores = model.read(id, cache);
    }
  }

  /** How probable the model found a token, and the five that it found most probable. */
  function weigh(scores, id) {
    const shares = softmax(scores);
    const ranked = Array.from(shares.keys()).sort((a, b) => shares[b] - shares[a]);
    return { probability: shares[id], alternatives: ranked.slice(0, 5).map((i) => [i, shares[i]]) };
  }

  // The calculator, with Python's numbers: a BigInt is an int, a Number is a float.
  const MAX_BITS = 256;
  const COUNT = /^("[^"\n\\]*"|'[^'\n\\]*')\.count\(("[^"\n\\]*"|'[^'\n\\]*')\)$/;
  const SYMBOL = /(\d+\.\d*|\.\d+)|(\d+)|(\*\*|\/\/|[-+*/%()])| +/y;

  /** The value of an expression as text, or null if the calculator does not take it. */
  function calculate(expression) {
    expression = expression.trim();
    const call = expression.length <= 10000 && COUNT.exec(expression);
    if (call) {
      const [text, letter] = [call[1].slice(1, -1), call[2].slice(1, -1)];
      return letter ? String(text.split(letter).length - 1) : null;
    }
    if (expression.length > 200) return null;
    try {
      return format(evaluate(expression.replace(/(?<=\d),(?=\d{3}(?!\d))/g, "")));
    } catch (error) {
      if (error instanceof Refused) return null;
      throw error;
    }
  }

  class Refused extends Error {}

  function refuse() {
    throw new Refused();
  }

  /** Cut an expression into numbers and operators, then evaluate it by recursive descent. */
  function evaluate(expression) {
    const symbols = [];
    for (SYMBOL.lastIndex = 0; SYMBOL.lastIndex < expression.length; ) {
      const [, float, int, operator] = SYMBOL.exec(expression) || refuse();
      if (int && /^0\d*[1-9]/.test(int)) refuse(); // Python takes no 007
      if (float) symbols.push(bounded(Number(float)));
      else if (int) symbols.push(bounded(BigInt(int)));
      else if (operator) symbols.push(operator);
    }
    let depth = 0;
    const take = (...wanted) => (wanted.includes(symbols[0]) ? symbols.shift() : null);

    function chain(operators, next) {
      let value = next();
      for (let operator; (operator = take(...operators)); ) value = apply(operator, value, next());
      return value;
    }
    const sum = () => chain(["+", "-"], product);
    const product = () => chain(["*", "/", "//", "%"], signed);
    function signed() {
      const sign = take("+", "-");
      if (!sign) return power();
      const value = signed();
      return sign === "-" ? -value : value;
    }
    function power() {
      const base = atom();
      return take("**") ? apply("**", base, signed()) : base;
    }
    function atom() {
      if (!take("(")) return typeof symbols[0] === "string" || !symbols.length ? refuse() : symbols.shift();
      if (++depth > 20) refuse();
      const value = sum();
      if (!take(")")) refuse();
      depth--;
      return value;
    }
    const value = sum();
    return symbols.length ? refuse() : value;
  }

  function apply(operator, a, b) {
    const ints = typeof a === "bigint" && typeof b === "bigint";
    if (operator === "**") return power(a, b);
    if ("/%".includes(operator[0]) && Number(b) === 0) refuse();
    if (operator === "/") return bounded(ints ? ratio(a, b) : Number(a) / Number(b));
    if (!ints) [a, b] = [Number(a), Number(b)];
    if (operator === "+") return bounded(a + b);
    if (operator === "-") return bounded(a - b);
    if (operator === "*") return bounded(a * b);
    const [quotient, rest] = ints ? divideInts(a, b) : divideFloats(a, b);
    return bounded(operator === "%" ? rest : quotient);
  }

  function power(a, b) {
    const size = typeof a === "bigint" ? bits(a) * Math.abs(Number(b)) : 0;
    if (size > 2 * MAX_BITS) refuse();
    if (typeof a === "bigint" && typeof b === "bigint" && b >= 0n) {
      return bounded(a === 0n ? BigInt(b === 0n) : a ** b);
    }
    if (Number(a) === 1) return 1; // JavaScript differs only where the exponent is not finite
    return bounded(Number(a) ** Number(b));
  }

  const bits = (n) => (n < 0n ? -n : n).toString(2).length * (n !== 0n);

  function bounded(value) {
    const fits = typeof value === "bigint" ? bits(value) <= MAX_BITS : Number.isFinite(value);
    return fits ? value : refuse();
  }

  /** a / b rounded once: 70 bits of the quotient and one for what is left over. */
  function ratio(a, b) {
    const shift = Math.max(0, 70 + bits(b) - bits(a));
    const top = (a < 0n ? -a : a) << BigInt(shift);
    const bottom = b < 0n ? -b : b;
    const size = Number(2n * (top / bottom) + BigInt(top % bottom !== 0n)) / 2 ** (shift + 1);
    return a < 0n !== b < 0n ? -size : size;
  }

  /** Quotient rounded down, and a remainder with the divisor's sign. */
  function divideInts(a, b) {
    const [quotient, rest] = [a / b, a % b];
    return rest !== 0n && rest < 0n !== b < 0n ? [quotient - 1n, rest + b] : [quotient, rest];
  }

  function divideFloats(a, b) {
    let rest = a % b;
    let quotient = (a - rest) / b;
    if (rest && rest < 0 !== b < 0) [rest, quotient] = [rest + b, quotient - 1];
    const floor = Math.floor(quotient);
    return [quotient - floor > 0.5 ? floor + 1 : floor, rest];
  }

  /** Integers in full, and floats that are integers too; other floats to 10 digits. */
  function format(value) {
    if (typeof value === "bigint") return String(value);
    if (Number.isInteger(value) && Math.abs(value) < 1e15) return String(BigInt(value));
    let [digits, exponent] = value.toExponential(9).split("e");
    const exact = Math.abs(value).toExponential(99).replace(".", "");
    if (/^\d{9}[02468]50*e/.test(exact)) { // a tie: Python rounds to the even digit
      digits = (value < 0 ? "-" : "") + exact[0] + "." + exact.slice(1, 10);
    }
    const size = Number(exponent);
    if (size < -4 || size >= 10) {
      const short = digits.replace(/\.?0+$/, "");
      return `${short}e${size < 0 ? "-" : "+"}${String(Math.abs(size)).padStart(2, "0")}`;
    }
    const plain = Number(`${digits}e${exponent}`).toFixed(9 - size);
    return plain.includes(".") ? plain.replace(/\.?0+$/, "") : plain;
  }

  globalThis.Chat = { Tokenizer, Model, prompt, reply, calculate };
})();
