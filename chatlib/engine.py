"""The engine: many replies written at once, one token a row and step.

A prompt is read once (*prefill*); its keys and values are copied to every row that continues it.
Then each step samples one token a row from the last scores and feeds all of them through the model
together (*decode*). Rows end at different times and new ones may join between steps: `Batch` is all
the machinery, and `Engine.generate`, `Engine.generate_batch` and `chatlib.batching` are loops
around it.
"""

import random
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from chatlib.conversation import PARTS
from chatlib.errors import ChatlibError
from chatlib.kv_cache import KVCache
from chatlib.model import GPT
from chatlib.native import Decoder, available, load
from chatlib.sampling import Sampling, choose
from chatlib.tokenizer import StreamDecoder, Tokenizer
from chatlib.tools import calculate

BUCKET = 64  # a compiled step sees a cache whose length is 64, 128, 256, ...


class Token(NamedTuple):
    """One token of one row, as it is written."""

    id: int
    forced: bool  # written by a tool, not chosen by the model
    probability: float | None = None  # what the model gave it, where alternatives were asked for
    alternatives: tuple[tuple[int, float], ...] = ()  # the most probable ids, best first


class Step(NamedTuple):
    """What one step of `Engine.generate` wrote: one entry a row, None for a row that has ended."""

    tokens: list[int | None]
    forced: list[bool]
    details: list[Token | None]


@dataclass(eq=False)
class Reply:
    """One reply in the making: how to write it, what is written, and what must be written next.

    tokens: ids so far, the final assistant_end included; mask: 1 sampled, 0 forced by a tool.
    finish: None while it grows, then "stop" (the model ended it), "length" or "cancelled".
    """

    prompt: list[int]
    sampling: Sampling = field(default_factory=Sampling)
    max_tokens: int = 256
    seed: int | str | None = None
    tools: bool = True
    alternatives: int = 0
    tokens: list[int] = field(default_factory=list)
    mask: list[int] = field(default_factory=list)
    finish: str | None = None

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.forced: deque[int] = deque()  # what a tool has said and is not written yet
        self._call: list[int] | None = None  # ids of the tool call being written

    @property
    def length(self) -> int:
        return len(self.prompt) + len(self.tokens)

    def take(self, sampled: int, engine: "Engine") -> tuple[int, bool]:
        """Write the next token: the forced one if there is one, else the sampled one."""
        forced = bool(self.forced)
        token = self.forced.popleft() if forced else sampled
        self.tokens.append(token)
        self.mask.append(int(not forced))
        if token in engine.stops and not forced:
            self.finish = "stop"
        elif len(self.tokens) >= self.max_tokens or self.length >= engine.context:
            self.finish = "length"
        elif self.tools:
            self._watch_for_call(token, engine)
        return token, forced

    def _watch_for_call(self, token: int, engine: "Engine") -> None:
        if token == engine.python_start:
            self._call = []
        elif token == engine.python_end and self._call is not None:
            result = calculate(engine.tokenizer.decode(self._call))
            if result is not None:
                said = engine.tokenizer.encode(result)
                self.forced.extend([engine.output_start, *said, engine.output_end])
            self._call = None
        elif self._call is not None:
            self._call.append(token)


class Batch:
    """Replies that decode together, in the first rows of one cache.

    A reply joins at the end; when one ends, the last row moves into its place. So a step costs what
    its live rows cost, however many the batch has room for.
    """

    def __init__(self, engine: "Engine", capacity: int, max_len: int | None = None) -> None:
        self.engine, self.capacity = engine, capacity
        self.max_len = max_len or engine.context
        dtype = torch.float32 if engine.native else engine.model.dtype
        self.cache = KVCache(engine.model.config, capacity, self.max_len, engine.device, dtype)
        self.stores = self.cache.keys + self.cache.values
        self.decoder = Decoder(engine.model, self.cache, engine.int8) if engine.native else None
        self._shape = None
        self.replies: list[Reply] = []
        self.logits = torch.empty(0, engine.model.config.vocab_size, device=engine.device)

    @property
    def free(self) -> int:
        return self.capacity - len(self.replies)

    def clear(self) -> None:
        """Drop every row."""
        self.replies, self.logits = [], self.logits[:0]

    @torch.inference_mode()
    def join(self, groups: Sequence[Sequence[Reply]]) -> None:
        """Prefill prompts of equal length and give each reply a row; a group shares its prompt."""
        prompts = [group[0].prompt for group in groups]
        cache = KVCache(
            self.engine.model.config,
            len(prompts),
            len(prompts[0]),
            self.engine.device,
            self.engine.model.dtype,
        )
        logits = self.engine.read(prompts, cache)
        for row, group in enumerate(groups):
            rows = slice(len(self.replies), len(self.replies) + len(group))
            for store, read in zip(self.stores, cache.keys + cache.values, strict=True):
                store[rows, : cache.end] = read[row]
            self.cache.previous[rows] = cache.previous[row]
            self.logits = torch.cat((self.logits, logits[row].expand(len(group), -1)))
            self.replies.extend(group)

    def step(self) -> list[tuple[Reply, Token]]:
        """Write one token in every row, drop the rows that end, and read the new tokens."""
        written = self._write()
        for row in reversed(range(len(self.replies))):
            if self.replies[row].finish:
                self._drop(row)
        if self.replies:
            self._read()
        else:
            self.clear()
        return written

    def _write(self) -> list[tuple[Reply, Token]]:
        uniform = [reply.random.random() for reply in self.replies]
        settings = [reply.sampling for reply in self.replies]
        asked = self.logits, settings, uniform, self._seen()
        picked = self.decoder.choose(*asked) if self.decoder else choose(*asked).tolist()
        written = []
        for row, reply in enumerate(self.replies):
            if not reply.finish:
                token, forced = reply.take(picked[row], self.engine)
                written.append((reply, self._detail(row, reply, token, forced)))
        return written

    def _seen(self) -> Tensor | None:
        if all(reply.sampling.repetition == 1 for reply in self.replies):
            return None
        seen = torch.zeros_like(self.logits, dtype=torch.bool)
        for row, reply in enumerate(self.replies):
            seen[row, reply.prompt + reply.tokens] = True
        return seen

    def _detail(self, row: int, reply: Reply, token: int, forced: bool) -> Token:
        if forced or not reply.alternatives:
            return Token(token, forced)
        probs = self.logits[row].softmax(-1)
        best = probs.topk(min(reply.alternatives, len(probs)))
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return Token(token, forced, float(probs[token]), tuple(pairs))

    @torch.inference_mode()
    def _drop(self, row: int) -> None:
        last = self.replies.pop()
        if row < len(self.replies):
            self.replies[row] = last
            used = last.length - 1
            for store in self.stores:
                store[row, :used] = store[len(self.replies), :used]
            self.cache.previous[row] = self.cache.previous[len(self.replies)]

    def _read(self) -> None:
        """Feed each row's newest token to the model."""
        ids = [reply.tokens[-1] for reply in self.replies]
        lengths = [reply.length - 1 for reply in self.replies]
        self.logits = self.decoder(ids, lengths) if self.decoder else self._forward(ids, lengths)

    @torch.inference_mode()
    def _forward(self, ids: list[int], lengths: list[int]) -> Tensor:
        """The step through PyTorch; row buckets and length buckets keep compiled shapes few."""
        rows = len(ids)
        shape = self.engine.bucket(rows, max(lengths) + 1, self.capacity, self.max_len)
        pad = [0] * (shape[0] - rows)
        ids, lengths = torch.tensor([ids + pad, lengths + pad], device=self.engine.device)
        if shape != self._shape:
            self._shape, self._window = shape, self._view(*shape)
        logits, previous = self.engine.decode(ids, lengths, *self._window)
        self._window[-1].copy_(previous)
        return logits[:rows]

    def _view(self, rows: int, length: int) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """The corner of the cache that a step works on: keys, values and `previous`."""
        keys = [layer[:rows, :length] for layer in self.cache.keys]
        values = [layer[:rows, :length] for layer in self.cache.values]
        return keys, values, self.cache.previous[:rows]


class Writer:
    """Turns tokens into pieces of text as they arrive, each with the kind of part it belongs to.

    A character may be split over tokens: its first bytes are held back until the rest is there.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer, self.kind = tokenizer, "text"
        self._opens = {tokenizer.special(name): kind for kind, (name, *_) in PARTS.items() if name}
        self._specials = set(tokenizer.special_ids.values())
        self._decoder = StreamDecoder()

    def push(self, token: int) -> list[tuple[str, str]]:
        """The (kind, text) pieces that this token completes; often one, sometimes none."""
        if token not in self._specials:
            text = self._decoder.push(self.tokenizer.id_to_bytes(token))
            return [(self.kind, text)] if text else []
        rest = self.finish()
        self.kind = self._opens.get(token, "text")
        return rest

    def finish(self) -> list[tuple[str, str]]:
        """What was held back; bytes that never became a character show as U+FFFD."""
        text = self._decoder.flush()
        return [(self.kind, text)] if text else []


class Engine:
    """A model and its tokenizer, ready to write.

    compile: decode by machine code: on a CPU a C++ step of our own (`chatlib.native`; needs a
    compiler, for seconds, once), on a GPU what PyTorch compiles on first use, replayed as a CUDA
    graph. int8: let that C++ step read its matrices in 8 bits.
    """

    def __init__(
        self, model: GPT, tokenizer: Tokenizer, *, compile: bool = False, int8: bool = False
    ) -> None:
        self.model, self.tokenizer = model.eval(), tokenizer
        self.context = model.config.sequence_len
        self.device = next(model.parameters()).device
        self.bos = tokenizer.bos
        self.python_start = tokenizer.special("<|python_start|>")
        self.python_end = tokenizer.special("<|python_end|>")
        self.output_start = tokenizer.special("<|output_start|>")
        self.output_end = tokenizer.special("<|output_end|>")
        self.stops = {tokenizer.special("<|assistant_end|>"), tokenizer.bos}
        on_cpu = self.device.type == "cpu"
        self.native, self.int8, self.compiled = compile and on_cpu, int8, compile and not on_cpu
        if int8 and not self.native:
            raise ChatlibError("Weights in 8 bits need a CPU and a compiled engine.")
        if self.native:
            load()
        self.decode = self._decode
        if self.compiled:
            self.decode = torch.compile(self._decode, dynamic=False, mode="reduce-overhead")

    @property
    def comfortable(self) -> int:
        """The tokens of a prompt that leaves a quarter of the context for the answer."""
        return self.context - self.context // 4

    def check(self, prompt: Sequence[int]) -> None:
        """Refuse a prompt that leaves no room to answer."""
        if not prompt:
            raise ChatlibError("The prompt is empty; give at least one token.")
        if len(prompt) >= self.context:
            raise ChatlibError(
                f"The prompt has {len(prompt)} tokens, but this model reads at most "
                f"{self.context - 1} before it answers; shorten the conversation."
            )

    def generate(
        self,
        prompt: Sequence[int],
        n: int = 1,
        *,
        max_tokens: int = 256,
        seed: int | None = 0,
        tools: bool = True,
        alternatives: int = 0,
        **sampling: float,
    ) -> Iterator[Step]:
        """Continue one prompt in n rows, step by step, until every row has ended.

        sampling: temperature, top_k, top_p, min_p, repetition, as in `Sampling`.
        alternatives: how many of the most probable tokens to report with each token.
        """
        self.check(prompt)
        settings = Sampling(**sampling), max_tokens, tools, alternatives
        replies = self._replies([prompt], n, seed, *settings)
        batch = Batch(self, n, min(self.context, len(prompt) + max_tokens))
        batch.join([replies])
        while batch.replies:
            written = {id(reply): token for reply, token in batch.step()}
            details = [written.get(id(reply)) for reply in replies]
            tokens = [token.id if token else None for token in details]
            yield Step(tokens, [bool(token and token.forced) for token in details], details)

    def generate_batch(
        self,
        prompts: Sequence[Sequence[int]],
        n: int = 1,
        *,
        max_tokens: int = 256,
        seed: int | None = 0,
        tools: bool = True,
        rows: int = 64,
        **sampling: float,
    ) -> list[Reply]:
        """Continue many prompts of any lengths, n times each, `rows` at a time.

        Returns len(prompts) * n finished replies, those of one prompt together. Row i is seeded by
        (seed, i): it writes the same whatever `rows` is.
        """
        for prompt in prompts:
            self.check(prompt)
        replies = self._replies(prompts, n, seed, Sampling(**sampling), max_tokens, tools, 0)
        groups = [replies[i : i + n] for i in range(0, len(replies), n)]
        waiting = deque(sorted(groups, key=lambda group: len(group[0].prompt)))
        longest = max((len(prompt) for prompt in prompts), default=0)
        batch = Batch(
            self, max(n, min(rows, len(replies))), min(self.context, longest + max_tokens)
        )
        while waiting or batch.replies:
            while waiting and batch.free >= n:
                same = [waiting.popleft()]
                while (
                    waiting
                    and batch.free >= n * (len(same) + 1)
                    and len(waiting[0][0].prompt) == len(same[0][0].prompt)
                ):
                    same.append(waiting.popleft())
                batch.join(same)
            batch.step()
        return replies

    def _replies(self, prompts, n, seed, sampling, max_tokens, tools, alternatives) -> list[Reply]:
        if max_tokens < 1 or n < 1:
            raise ChatlibError(f"max_tokens is {max_tokens} and n is {n}; both must be at least 1.")
        return [
            Reply(
                list(prompt),
                sampling,
                max_tokens,
                None if seed is None else f"{seed}:{row * n + i}",
                tools,
                alternatives,
            )
            for row, prompt in enumerate(prompts)
            for i in range(n)
        ]

    def read(self, prompts: Sequence[Sequence[int]], cache: KVCache) -> Tensor:
        """Prefill: put prompts of one length into the cache -> scores (B, V) of what follows."""
        ids = torch.tensor(prompts, device=self.device)
        return self.model(ids, cache=cache)[:, -1]

    def _decode(self, ids, lengths, keys, values, previous) -> tuple[Tensor, Tensor]:
        """One token a row: ids, lengths (B,) -> scores (B, V) and the new `previous` (B, 1, C)."""
        cache = KVCache.over(keys, values, lengths, previous)
        return self.model(ids[:, None], cache=cache)[:, -1], cache.previous

    def bucket(self, rows: int, length: int, most_rows: int, longest: int) -> tuple[int, int]:
        """The shape a step runs at: exact when eager, the next power of two when compiled."""
        if not self.compiled:
            return rows, length
        width = BUCKET
        while width < length:
            width *= 2
        return min(most_rows, 1 << (rows - 1).bit_length()), min(longest, width)


def fast_engine(model: GPT, tokenizer: Tokenizer, int8: bool = False) -> Engine:
    """An engine with the compiled step where a CPU and a compiler are at hand, else without."""
    compile = next(model.parameters()).device.type == "cpu" and available()
    return Engine(model, tokenizer, compile=compile, int8=int8)
