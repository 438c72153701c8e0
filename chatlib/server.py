"""A chat server: the API of OpenAI, a web page, and many replies at once through one scheduler.

A request is read within limits, checked against the schema that /openapi.json publishes, turned
into a prompt, and streamed back as server-sent events while it is written. When the reader goes
away its row is freed. Nothing a client sends should cause more than a 4xx with one sentence.
"""

import asyncio
import contextlib
import os
import secrets
import socket
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import (
    FileResponse,
    JSONResponse,
    PlainTextResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from uvicorn.protocols.http.h11_impl import H11Protocol

from chatlib.answer import Answer
from chatlib.api import CHAT, COMPLETION, MAX_CHARS, Refusal, openapi, parse
from chatlib.batching import QueueFull, Scheduler, Stream
from chatlib.conversation import recent, render_prompt
from chatlib.engine import Engine, Reply
from chatlib.errors import ChatlibError
from chatlib.runs import Run
from chatlib.sampling import Sampling

WEB = Path(__file__).parent / "web"
MAX_BODY = 1_000_000  # bytes
READ_SECONDS = 20  # for a whole request to arrive
WRITE_SECONDS = 60  # for a reader to take the next piece
MAX_CONNECTIONS = 1000
LOOPBACK = ("127.0.0.1", "::1", "localhost")
HEADERS = {
    "content-security-policy": "default-src 'self'; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


class EventStream(StreamingResponse):
    """A streaming response that gives up on a stalled reader, and always frees the row."""

    def __init__(self, chunks: AsyncIterator[str], stream: Stream, media_type: str) -> None:
        super().__init__(chunks, media_type=media_type)
        self.stream = stream

    async def __call__(self, scope, receive, send) -> None:
        async def send_in_time(message) -> None:
            async with asyncio.timeout(WRITE_SECONDS):
                await send(message)

        try:
            with contextlib.suppress(TimeoutError):
                await super().__call__(scope, receive, send_in_time)
        finally:
            self.stream.cancel()


class Service:
    """The endpoints, around one engine and its scheduler."""

    def __init__(self, engine: Engine, name: str, rows: int, room: int) -> None:
        self.engine, self.name, self.rows, self.room = engine, name, rows, room
        self.scheduler: Scheduler | None = None

    @contextlib.asynccontextmanager
    async def running(self, app: Starlette) -> AsyncIterator[None]:
        """The scheduler's life is the server's."""
        loop = asyncio.get_running_loop()
        self.scheduler = Scheduler(self.engine, rows=self.rows, room=self.room, loop=loop)
        yield
        await asyncio.to_thread(self.scheduler.close)

    async def chat(self, request: Request) -> Response:
        body = parse(await read_body(request), CHAT)
        messages = [_message(message) for message in body["messages"]]
        if messages[-1]["role"] != "user":
            raise Refusal(400, "The last message must be the user's.", param="messages")
        kept = messages
        if body.get("truncation") == "auto":
            kept = recent(self.engine.tokenizer, messages, self.engine.comfortable)
        if sum(len(part["text"]) for m in kept for part in _parts(m["content"])) > MAX_CHARS:
            raise Refusal(400, f"messages must have at most {MAX_CHARS:,} characters in all.")
        prompt = render_prompt(self.engine.tokenizer, {"messages": kept})
        return self._answer(body, prompt, tools=True, forgotten=len(messages) - len(kept))

    async def complete(self, request: Request) -> Response:
        body = parse(await read_body(request), COMPLETION)
        tokenizer = self.engine.tokenizer
        prompt = [tokenizer.bos, *tokenizer.encode(body["prompt"])]
        return self._answer(body, prompt, tools=False)

    def _answer(
        self, body: dict[str, Any], prompt: list[int], tools: bool, forgotten: int = 0
    ) -> Response:
        if body["model"] != self.name:
            sentence = (
                f"There is no model {body['model'][:80]!r} here; this server has {self.name!r}."
            )
            raise Refusal(404, sentence, param="model", code="model_not_found")
        names = {"temperature", "top_k", "top_p", "min_p"} & body.keys()
        sampling = {name: body[name] for name in names}
        sampling["repetition"] = body.get("repetition_penalty", 1.0)
        default = 256 if "messages" in body else 16
        reply = Reply(
            prompt,
            Sampling(**sampling),
            body.get("max_completion_tokens") or body.get("max_tokens") or default,
            body.get("seed"),
            tools,
            max(1, body.get("top_logprobs", 0)) if body.get("logprobs") else 0,
        )
        stream = self.scheduler.submit(reply)
        answer = Answer(self.engine, self.name, body, stream, forgotten)
        if body.get("stream"):
            return EventStream(answer.events(), stream, "text/event-stream")
        return EventStream(answer.whole(), stream, "application/json")

    async def models(self, request: Request) -> Response:
        model = {"id": self.name, "object": "model", "created": 0, "owned_by": "chatlib"}
        model["context"] = self.engine.context
        return JSONResponse({"object": "list", "data": [model]})

    async def health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok", "model": self.name})

    async def metrics(self, request: Request) -> Response:
        """Counters and gauges as Prometheus reads them."""
        scheduler = self.scheduler
        lines = []
        for name in (
            "requests",
            "tokens",
            "steps",
            "stop",
            "length",
            "cancelled",
            "error",
            "refused",
        ):
            lines += [f"# TYPE chatlib_{name}_total counter"]
            lines += [f"chatlib_{name}_total {scheduler.counts[name]}"]
        gauges = {"live": len(scheduler.live), "waiting": len(scheduler.waiting), "rows": self.rows}
        gauges["cache_tokens"] = sum(reply.length for reply in list(scheduler.live))
        for name, value in gauges.items():
            lines += [f"# TYPE chatlib_{name} gauge", f"chatlib_{name} {value}"]
        return PlainTextResponse("\n".join(lines) + "\n", media_type="text/plain; version=0.0.4")


def _message(message: dict[str, Any]) -> dict[str, Any]:
    """A message as `chatlib.conversation` has it: only an assistant's content stays in parts."""
    role, content = message["role"], message["content"]
    if role != "assistant" and isinstance(content, list):
        if any(part["type"] != "text" for part in content):
            raise Refusal(
                400, "Only the assistant's messages may have tool parts.", param="messages"
            )
        content = "".join(part["text"] for part in content)
    return {"role": "system" if role == "developer" else role, "content": content}


def _parts(content: str | list[dict[str, str]]) -> list[dict[str, str]]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


async def read_body(request: Request) -> bytes:
    """The body of a JSON request, within its limits of size and time."""
    if request.headers.get("content-type", "").split(";")[0].strip() != "application/json":
        raise Refusal(415, "Send the request as application/json.")
    body = bytearray()
    try:
        async with asyncio.timeout(READ_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_BODY:
                    raise Refusal(413, f"The body may have at most {MAX_BODY:,} bytes.")
    except TimeoutError:
        raise Refusal(408, "The request took too long to arrive; send it again.") from None
    except ClientDisconnect:
        raise Refusal(400, "The client went away.") from None
    return bytes(body)


async def explain(request: Request, error: Exception) -> Response:
    """Any refusal, in OpenAI's shape."""
    if isinstance(error, QueueFull):
        error = Refusal(429, str(error), code="rate_limit_exceeded", Retry_After="1")
    elif isinstance(error, HTTPException):
        headers = error.headers or {}
        error = Refusal(error.status_code, f"{error.detail} ({request.url.path[:80]}).")
        error.headers = headers
    elif not isinstance(error, Refusal):
        error = Refusal(400, str(error))
    return JSONResponse(error.body(), error.status, error.headers)


class Guard:
    """In front of everything: the key, the Host header, and the headers every response carries.

    A page elsewhere can make a browser send requests to a loopback address under a name of its
    own; so only the names the server was started under are answered. No other origin is allowed.
    """

    def __init__(self, app, api_key: str | None, hosts: tuple[str, ...] | None) -> None:
        self.app, self.api_key, self.hosts = app, api_key, hosts

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)

        async def send_with_headers(message) -> None:
            if message["type"] == "http.response.start":
                extra = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [*message["headers"], *extra]
            await send(message)

        try:
            self._check(Request(scope))
            response = self.app
        except Refusal as refusal:
            response = JSONResponse(refusal.body(), refusal.status, refusal.headers)
        await response(scope, receive, send_with_headers)

    def _check(self, request: Request) -> None:
        host = request.headers.get("host", "")
        name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
        if self.hosts and name.strip("[]") not in self.hosts:
            raise Refusal(400, "This server answers only under the address it was started with.")
        private = request.url.path.startswith(("/v1/", "/metrics"))
        given = request.headers.get("authorization", "").encode()
        key = f"Bearer {self.api_key}".encode()
        if self.api_key and private and not secrets.compare_digest(given, key):
            sentence = "The API key is missing or wrong."
            raise Refusal(401, sentence, code="invalid_api_key", WWW_Authenticate="Bearer")


class Connection(H11Protocol):
    """A connection that cannot linger: every so often it must have shown a sign of life."""

    def connection_made(self, transport) -> None:
        super().connection_made(transport)
        self._was_idle = False
        if len(self.connections) > MAX_CONNECTIONS:
            transport.abort()
        self._timer = self.loop.call_later(READ_SECONDS, self._watch)

    def connection_lost(self, exc) -> None:
        self._timer.cancel()
        super().connection_lost(exc)

    def _watch(self) -> None:
        idle = self.cycle is None or self.cycle.response_complete
        if self.transport.is_closing() or (idle and self._was_idle):
            self.transport.abort()  # closed, but its reader takes nothing; or half a request
        self._was_idle = idle
        self._timer = self.loop.call_later(READ_SECONDS, self._watch)


def create_app(
    engine: Engine,
    name: str,
    *,
    api_key: str | None = None,
    hosts: tuple[str, ...] | None = LOOPBACK,
    rows: int = 32,
    room: int = 128,
) -> Callable:
    """The ASGI application. hosts: names it answers under, None for any."""
    service = Service(engine, name, rows, room)
    document = openapi(f"chatlib: {name}")

    async def schema(request: Request) -> Response:
        return JSONResponse(document)

    async def page(request: Request) -> Response:
        return FileResponse(WEB / "index.html")

    routes = [
        Route("/v1/chat/completions", service.chat, methods=["POST"]),
        Route("/v1/completions", service.complete, methods=["POST"]),
        Route("/v1/models", service.models),
        Route("/health", service.health),
        Route("/metrics", service.metrics),
        Route("/openapi.json", schema),
        Route("/", page),
        Mount("/web", StaticFiles(directory=WEB)),
    ]
    handlers = {ChatlibError: explain, HTTPException: explain}
    app = Starlette(routes=routes, exception_handlers=handlers, lifespan=service.running)
    app.state.service = service
    return Guard(app, api_key, hosts)


def make_server(app: Callable) -> uvicorn.Server:
    """A uvicorn server for the app, with connections that cannot linger."""
    config = uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        log_level="warning",
        server_header=False,
        timeout_graceful_shutdown=2,
    )
    return uvicorn.Server(config)


def listen(host: str, port: int) -> socket.socket:
    """A socket for `Server.run`, at a port of its own choosing if `port` is 0."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=512)
    except OSError as error:
        raise ChatlibError(
            f"Cannot listen at {host} port {port} ({error.strerror}); choose another with --port."
        ) from error
    # Each piece is sent at once; otherwise one waits, some 40 ms, until the last is acknowledged.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def serve(
    run: str | None = None,
    stage: str | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    api_key: str | None = None,
    int8: bool = False,
) -> None:
    """Serve the newest model, or that of a run and stage, until interrupted.

    Other machines can reach it only if host is another address than loopback; then give a key,
    here or in the environment variable CHATLIB_API_KEY. int8: matrices in 8 bits, on a CPU.
    """
    from chatlib.report import last_stage, load_engine

    api_key = api_key or os.environ.get("CHATLIB_API_KEY")
    which = Run.open(run) if run else Run.latest()
    stage = stage or last_stage(which)
    engine = load_engine(which, stage, int8)
    listener = listen(host, port)
    if host not in LOOPBACK and not api_key:
        print("Anyone who can reach this address can use the model; --api-key asks for a key.")
    hosts = LOOPBACK if host in LOOPBACK else None
    app = create_app(engine, f"{which.name}-{stage}", api_key=api_key, hosts=hosts)
    shown = f"[{host}]" if ":" in host else host
    print(f"Chat with {which.name} ({stage}) at http://{shown}:{port}  (Ctrl-C stops)", flush=True)
    sys.setswitchinterval(0.0005)  # hand the interpreter over quickly between model and network
    with listener:
        make_server(app).run(sockets=[listener])
