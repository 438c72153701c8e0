"""How a reply looks on the wire: OpenAI's objects, with what they leave out in one extra field."""

import json
import math
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

from chatlib.api import Refusal
from chatlib.batching import Stream
from chatlib.engine import Engine, Token, Writer


class Answer:
    """One reply as the JSON of one endpoint: chunks while it is written, or one object at the end.

    Text goes where OpenAI's clients look for it. What a tool has a share in goes only into the
    extra field `chatlib`, as parts of kind python and python_output.
    """

    def __init__(
        self, engine: Engine, model: str, request: dict[str, Any], stream: Stream, forgotten: int
    ) -> None:
        self.engine, self.model, self.request, self.stream = engine, model, request, stream
        self.forgotten = forgotten  # messages left out because they no longer fit
        self.chat = "messages" in request
        self.id = f"{'chatcmpl' if self.chat else 'cmpl'}-{secrets.token_hex(12)}"
        self.created, self.started = int(time.time()), time.perf_counter()
        self.writer = Writer(engine.tokenizer)

    async def events(self) -> AsyncIterator[str]:
        """Server-sent events: a chunk a piece of text, then one that tells how it ended."""
        if self.chat:
            yield self._event([self._choice(delta={"role": "assistant", "content": ""})])
        async for tokens in self.stream:
            for piece in self._pieces(tokens):
                yield self._event([self._piece_choice(*piece)])
        for kind, text in self.writer.finish():
            yield self._event([self._piece_choice(kind, text, False, [])])
        if self.stream.reply.finish == "error":
            yield f"data: {json.dumps(Refusal(500, 'The model failed on this reply.').body())}\n\n"
            return
        yield self._event([self._choice(finish_reason=self._reason())], chatlib=self._facts())
        if (self.request.get("stream_options") or {}).get("include_usage"):
            yield self._event([], usage=self._usage())
        yield "data: [DONE]\n\n"

    async def whole(self) -> AsyncIterator[str]:
        """The reply as one JSON object, once it is complete."""
        written = [token async for tokens in self.stream for token in tokens]
        if self.stream.reply.finish == "error":
            raise RuntimeError("the model failed on this reply")
        pieces = [pair for token in written for pair in self.writer.push(token.id)]
        pieces += self.writer.finish()
        parts: list[dict[str, str]] = []
        for kind, text in pieces:
            if parts and parts[-1]["type"] == kind:
                parts[-1]["text"] += text
            else:
                parts.append({"type": kind, "text": text})
        text = "".join(part["text"] for part in parts if part["type"] == "text")
        choice = {"index": 0, "finish_reason": self._reason(), "logprobs": self._logprobs(written)}
        if self.chat:
            choice["message"] = {"role": "assistant", "content": text, "refusal": None}
        else:
            choice["text"] = text
        extra = {"parts": parts, **self._facts()}
        yield json.dumps(self._object([choice], "", usage=self._usage(), chatlib=extra))

    def _pieces(self, tokens: list[Token]) -> Iterator[tuple[str, str, bool, list[Token]]]:
        """(kind, text, forced, tokens) of what has come: token by token where the client looks
        inside, else joined as far as kinds allow."""
        if self.request.get("logprobs"):
            for token in tokens:
                pairs = self.writer.push(token.id) or [(self.writer.kind, "")]
                for kind, text in pairs[:-1]:
                    yield kind, text, token.forced, []
                yield *pairs[-1], token.forced, [token]
            return
        kind, text = "", ""
        for token in tokens:
            for new, more in self.writer.push(token.id):
                if text and new != kind:
                    yield kind, text, False, []
                    text = ""
                kind, text = new, text + more
        if text:
            yield kind, text, False, []

    def _piece_choice(self, kind: str, text: str, forced: bool, tokens: list[Token]) -> dict:
        part = {"part": kind, "text": text, "forced": forced}
        if forced:  # no probability to report, yet a reader who looks inside wants the token
            part["token"] = self._name(tokens[0].id) if tokens else text
        said = text if kind == "text" else ""
        content = {"delta": {"content": said} if said else {}} if self.chat else {"text": said}
        return self._choice(**content, logprobs=self._logprobs(tokens), chatlib=part)

    def _choice(self, **fields: Any) -> dict[str, Any]:
        empty = {"delta": {}} if self.chat else {"text": ""}
        return {"index": 0, **empty, "logprobs": None, "finish_reason": None, **fields}

    def _event(self, choices: list[dict], **fields: Any) -> str:
        return f"data: {json.dumps(self._object(choices, '.chunk', **fields))}\n\n"

    def _object(self, choices: list[dict], suffix: str, **fields: Any) -> dict[str, Any]:
        kind = f"chat.completion{suffix}" if self.chat else "text_completion"
        shared = {"id": self.id, "object": kind, "created": self.created}
        return {**shared, "model": self.model, "choices": choices, **fields}

    def _logprobs(self, tokens: list[Token]) -> dict[str, Any] | None:
        """OpenAI's account of the tokens the model chose, with the best alternatives."""
        if not self.request.get("logprobs"):
            return None
        entries = [
            self._entry(token.id, token.probability)
            | {"top_logprobs": [self._entry(*pair) for pair in self._top(token)]}
            for token in tokens
            if not token.forced
        ]
        return {"content": entries, "refusal": None}

    def _top(self, token: Token) -> tuple[tuple[int, float], ...]:
        return token.alternatives[: self.request.get("top_logprobs", 0)]

    def _entry(self, token: int, probability: float) -> dict[str, Any]:
        logprob = math.log(max(probability, 1e-30))
        data = list(self.engine.tokenizer.id_to_bytes(token))
        return {"token": self._name(token), "logprob": logprob, "bytes": data}

    def _name(self, token: int) -> str:
        return self.engine.tokenizer.decode([token])

    def _reason(self) -> str:
        return "stop" if self.stream.reply.finish == "stop" else "length"

    def _usage(self) -> dict[str, int]:
        reply = self.stream.reply
        counts = {"prompt_tokens": len(reply.prompt), "completion_tokens": len(reply.tokens)}
        return {**counts, "total_tokens": reply.length}

    def _facts(self) -> dict[str, Any]:
        """What the web page tells about the reply."""
        seconds, reply = time.perf_counter() - self.started, self.stream.reply
        config, dtype = self.engine.model.config, self.engine.model.dtype
        numbers = 2 * config.n_layer * config.n_kv_head * config.head_dim  # a token
        return {
            "tokens_per_second": round(len(reply.tokens) / max(seconds, 1e-6), 1),
            "cache_tokens": reply.length,
            "cache_bytes": reply.length * numbers * dtype.itemsize,
            "context": self.engine.context,
            "forgotten": self.forgotten,
        }
