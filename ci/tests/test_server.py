"""The server, over real sockets: OpenAI's own client, limits, floods, sloths and fuzz."""

import asyncio
import gc
import json
import socket
import time

import httpx
import openai
import psutil
import pytest

import chatlib.server
from chatlib.conversation import render_prompt
from chatlib.engine import Engine, Writer
from chatlib.server import listen
from ci.tests.serving import serving, until
from ci.tests.tiny_models import byte_tokenizer, ids, random_model, reciting_model

TOKENIZER = byte_tokenizer()
HELLO = [{"role": "user", "content": "What does Zoé do?"}]


@pytest.fixture(scope="module")
def engine():
    return Engine(random_model(TOKENIZER, context=256), TOKENIZER)


@pytest.fixture(scope="module")
def endless():
    """An engine that never ends a reply of its own accord."""
    script = ids(TOKENIZER, "<|assistant_start|>", "a", "b", "a")
    return Engine(reciting_model(TOKENIZER, script, context=8192), TOKENIZER)


@pytest.fixture(scope="module")
def server(engine):
    with serving(engine, rows=16, room=256) as running:
        yield running


@pytest.fixture(scope="module")
def address(server):
    return server[0]


@pytest.fixture(scope="module")
def client(address):
    return openai.OpenAI(base_url=f"{address}/v1", api_key="unused", max_retries=0, timeout=60)


def text_of(tokens):
    writer = Writer(TOKENIZER)
    pieces = [piece for token in tokens for piece in writer.push(token)] + writer.finish()
    return "".join(text for kind, text in pieces if kind == "text")


def expected_reply(engine, messages, **settings):
    """What the engine writes by itself, greedily."""
    prompt = render_prompt(TOKENIZER, {"messages": messages})
    return engine.generate_batch([prompt], temperature=0, **settings)[0]


def post(address, body, path="/v1/chat/completions", **options):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"content-type": "application/json", **options.pop("headers", {})}
    return httpx.post(address + path, content=content, headers=headers, timeout=60, **options)


def test_the_openai_client_chats(client, engine):
    expected = expected_reply(engine, HELLO, max_tokens=20)
    answer = client.chat.completions.create(
        model="tiny", messages=HELLO, temperature=0, max_tokens=20
    )
    assert answer.choices[0].message.content == text_of(expected.tokens)
    assert answer.choices[0].finish_reason == expected.finish
    assert answer.usage.completion_tokens == len(expected.tokens)


def test_the_openai_client_streams(client, engine):
    expected = expected_reply(engine, HELLO, max_tokens=40)
    chunks = list(
        client.chat.completions.create(
            model="tiny",
            messages=HELLO,
            temperature=0,
            max_completion_tokens=40,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    said = [c.choices[0].delta.content or "" for c in chunks if c.choices]
    assert "".join(said) == text_of(expected.tokens)
    assert chunks[-1].usage.total_tokens == expected.length
    assert chunks[-2].choices[0].finish_reason == expected.finish
    assert chunks[-2].chatlib["cache_tokens"] == expected.length


def test_the_openai_client_sees_probabilities(client):
    answer = client.chat.completions.create(
        model="tiny", messages=HELLO, max_tokens=5, logprobs=True, top_logprobs=3, seed=4
    )
    entries = answer.choices[0].logprobs.content
    assert len(entries) == answer.usage.completion_tokens
    for entry in entries:
        best = [top.logprob for top in entry.top_logprobs]
        assert len(best) == 3 and best == sorted(best, reverse=True)
        assert entry.logprob <= best[0] + 1e-6 and bytes(entry.bytes) is not None


def test_the_openai_client_completes_and_lists(client, engine):
    prompt = [TOKENIZER.bos, *TOKENIZER.encode("Zoé")]
    expected = engine.generate_batch([prompt], temperature=0, max_tokens=12, tools=False)[0]
    settings = {"model": "tiny", "prompt": "Zoé", "temperature": 0, "max_tokens": 12}
    assert client.completions.create(**settings).choices[0].text == text_of(expected.tokens)
    chunks = client.completions.create(**settings, stream=True)
    assert "".join(c.choices[0].text for c in chunks) == text_of(expected.tokens)
    assert [model.id for model in client.models.list()] == ["tiny"]


def test_a_seed_repeats_a_reply(client):
    def text(seed):
        made = client.chat.completions.create(model="tiny", messages=HELLO, seed=seed, max_tokens=9)
        return made.choices[0].message.content

    assert text(5) == text(5) != text(6)


def test_the_openai_client_understands_refusals(client):
    with pytest.raises(openai.NotFoundError, match="no model 'gpt-9'"):
        client.chat.completions.create(model="gpt-9", messages=HELLO)
    with pytest.raises(openai.BadRequestError, match="temperature must be from 0"):
        client.chat.completions.create(model="tiny", messages=HELLO, temperature=3)
    with pytest.raises(openai.BadRequestError, match="shorten the conversation"):
        long = [{"role": "user", "content": "long " * 100}]
        client.chat.completions.create(model="tiny", messages=long)


def test_a_long_conversation_loses_its_start_when_asked_to(address):
    turns = [{"role": "user", "content": "x" * 60}, {"role": "assistant", "content": "y" * 40}]
    long = [{"role": "system", "content": "Be brief."}, *turns * 3, *HELLO]
    request = {"model": "tiny", "messages": long, "max_tokens": 2}
    assert post(address, request).status_code == 400
    assert post(address, request | {"truncation": "disabled"}).status_code == 400
    assert post(address, request | {"truncation": "some"}).status_code == 400
    answer = post(address, request | {"truncation": "auto"}).json()
    kept = [long[0], *turns, *HELLO]  # the most that fits in 192 of 256 tokens
    prompt = render_prompt(TOKENIZER, {"messages": kept})
    assert answer["usage"]["prompt_tokens"] == len(prompt) <= 192
    assert answer["chatlib"]["forgotten"] == len(long) - len(kept) == 4
    hours = [turns[0], turns[1] | {"content": "y" * 4000}] * 20 + HELLO  # past the limit of text
    assert post(address, request | {"messages": hours}).status_code == 400
    answer = post(address, request | {"messages": hours, "truncation": "auto"}).json()
    assert answer["chatlib"]["forgotten"] == 40
    short = post(address, request | {"messages": HELLO, "truncation": "auto"}).json()
    assert short["chatlib"]["forgotten"] == 0


def test_system_messages_and_tool_parts_come_back_as_history(address):
    parts = [{"type": "text", "text": "It is "}, {"type": "python", "text": "2+2"}]
    history = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "2+2?"}]},
        {"role": "assistant", "content": [*parts, {"type": "python_output", "text": "4"}]},
        *HELLO,
    ]
    answer = post(address, {"model": "tiny", "messages": history, "max_tokens": 2}).json()
    script = ("Be brief.\n\n2+2?", "It is 2+2", "4", "What does Zoé do?")
    characters = sum(len(text.encode()) for text in script)
    assert answer["usage"]["prompt_tokens"] == characters + 1 + 6 + 4 + 1


def test_a_tool_call_is_streamed_as_parts():
    script = ["<|assistant_start|>", "a", "<|python_start|>", "2+37", "<|python_end|>"]
    rest = ids(TOKENIZER, "<|output_end|>", "b", "<|assistant_end|>")
    model = reciting_model(TOKENIZER, ids(TOKENIZER, *script) + rest)
    body = {"model": "tiny", "messages": HELLO, "temperature": 0, "stream": True}
    with serving(Engine(model, TOKENIZER)) as (address, *_):
        for extra in ({}, {"logprobs": True}):
            chunks = read_events(post(address, body | extra).text)
            choices = [chunk["choices"][0] for chunk in chunks]
            assert "".join(c["delta"].get("content", "") for c in choices) == "ab"
            parts = [c["chatlib"] for c in choices if "chatlib" in c]
            calls = [(part["part"], part["text"]) for part in parts if part["part"] != "text"]
            joined = {kind: "".join(t for k, t in calls if k == kind) for kind, _ in calls}
            assert joined == {"python": "2+37", "python_output": "39"}
            if extra:
                named = [part["token"] for part in parts if part["forced"]]
                assert named == ["<|output_start|>", "3", "9", "<|output_end|>"]
        whole = post(address, body | {"stream": False}).json()
    assert whole["choices"][0]["message"]["content"] == "ab"
    assert [p["type"] for p in whole["chatlib"]["parts"]] == [
        "text",
        "python",
        "python_output",
        "text",
    ]


def read_events(text):
    data = [block.removeprefix("data: ") for block in text.strip().split("\n\n")]
    assert data.pop() == "[DONE]"
    return [json.loads(item) for item in data]


def test_no_event_ends_within_a_character():
    script = [ids(TOKENIZER, "<|assistant_start|>")[0], *"é🐝".encode()]
    model = reciting_model(TOKENIZER, [*script, TOKENIZER.special("<|assistant_end|>")])
    with serving(Engine(model, TOKENIZER)) as (address, *_):
        body = {"model": "tiny", "messages": HELLO, "temperature": 0, "stream": True}
        for extra in ({}, {"logprobs": True}):
            chunks = read_events(post(address, body | extra).text)
            said = [chunk["choices"][0]["delta"].get("content", "") for chunk in chunks]
            assert "".join(said) == "é🐝" and not any("\ufffd" in text for text in said)


GOOD = {"model": "tiny", "messages": HELLO, "max_tokens": 2}
BAD = {
    "no messages": {"messages": []},
    "too many messages": {"messages": HELLO * 501},
    "a long message": {"messages": [{"role": "user", "content": "x" * 8001}]},
    "long in all": {
        "messages": [
            {"role": r, "content": "x" * 7999} for r in ("user", "assistant") * 2 + ("user",)
        ]
    },
    "no role": {"messages": [{"content": "x"}]},
    "a strange role": {"messages": [{"role": "wizard", "content": "x"}]},
    "the user twice": {"messages": HELLO * 2},
    "the assistant last": {"messages": [*HELLO, {"role": "assistant", "content": "x"}]},
    "content null": {"messages": [{"role": "user", "content": None}]},
    "a tool part from the user": {
        "messages": [{"role": "user", "content": [{"type": "python", "text": "1"}]}]
    },
    "hot": {"temperature": 2.1},
    "cold": {"temperature": -1},
    "text for a number": {"temperature": "1"},
    "true for a number": {"temperature": True},
    "k too large": {"top_k": 201},
    "k not whole": {"top_k": 1.5},
    "no tokens": {"max_tokens": 0},
    "too many tokens": {"max_tokens": 4097},
    "two choices": {"n": 2},
    "a seed out of range": {"seed": 2**70},
    "a field unknown here": {"functions": []},
    "a model of another type": {"model": 7},
    "half a surrogate pair": {"messages": [{"role": "user", "content": "\ud800"}]},
    "not a number": {"temperature": float("nan")},
    "beyond infinity": {"temperature": float("inf")},
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_request_gets_one_sentence(address, name):
    response = post(address, GOOD | BAD[name])
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["message"].endswith(".") and error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"7", b"null", b"\xff\xfe", b"[" * 100_000, b'{"a":1e999}', b"1" * 9999],
)
def test_a_malformed_body_is_a_400(address, body):
    for path in ("/v1/chat/completions", "/v1/completions"):
        assert post(address, body, path).status_code == 400


def test_other_refusals(address):
    assert post(address, b"x" * 1_100_000).status_code == 413
    assert post(address, GOOD, headers={"content-type": "text/plain"}).status_code == 415
    assert httpx.get(f"{address}/v1/chat/completions").status_code == 405
    for path in ("/v1/nothing", "/web/../server.py", "/web/%2e%2e/server.py", "/web/x"):
        response = httpx.get(address + path)
        assert response.status_code == 404 and "message" in response.json()["error"]


def test_every_response_is_guarded(address):
    for path in ("/", "/web/chat.js", "/v1/models", "/nothing"):
        headers = httpx.get(address + path, headers={"origin": "https://evil.example"}).headers
        assert headers["content-security-policy"].startswith("default-src 'self'")
        assert headers["x-content-type-options"] == "nosniff"
        assert not [name for name in headers if name.startswith("access-control")]
    assert httpx.get(address, headers={"host": "evil.example"}).status_code == 400


def test_health_and_metrics(address, server):
    assert post(address, GOOD).status_code == 200
    assert httpx.get(f"{address}/health").json()["status"] == "ok"
    lines = httpx.get(f"{address}/metrics").text.splitlines()
    values = dict(line.split() for line in lines if not line.startswith("#"))
    assert int(values["chatlib_tokens_total"]) == server[1].counts["tokens"] > 0
    assert values["chatlib_rows"] == "16"


def test_a_key_guards_the_api_and_not_the_page(engine):
    with serving(engine, api_key="sesame") as (address, *_):
        assert httpx.get(address).status_code == httpx.get(f"{address}/health").status_code == 200
        for wrong in ({}, {"authorization": "Bearer sesam"}, {"authorization": "sesame"}):
            assert post(address, GOOD, headers=wrong).status_code == 401
        client = openai.OpenAI(base_url=f"{address}/v1", api_key="sesame", max_retries=0)
        assert client.chat.completions.create(**GOOD).usage.completion_tokens > 0


def test_a_full_queue_is_a_429(endless):
    with serving(endless, rows=1, room=1) as (address, scheduler, _):
        body = GOOD | {"max_tokens": 4096, "stream": True}
        port = int(address.rsplit(":", 1)[1])
        waiting = []
        for count in (1, 2):
            waiting.append(raw_request(port, body))
            until(lambda n=count: len(scheduler.live) + len(scheduler.waiting) == n)
        response = post(address, GOOD)
        assert response.status_code == 429 and int(response.headers["retry-after"]) >= 1
        for connection in waiting:
            connection.close()
        until(lambda: not scheduler.live and not scheduler.waiting)
        assert post(address, GOOD).status_code == 200


def raw_request(port, body, receive_buffer=None):
    """A connection that has sent a request and reads nothing yet."""
    connection = socket.socket()
    if receive_buffer:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.connect(("127.0.0.1", port))
    content = json.dumps(body).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(content)}"
    )
    connection.sendall(f"{head}\r\nContent-Type: application/json\r\n\r\n".encode() + content)
    return connection


async def stream_text(port, body, stop_after=None):
    """Read a stream over a plain socket; hang up after so many events, if told to."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    content = json.dumps(body).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(content)}"
    )
    writer.write(f"{head}\r\nContent-Type: application/json\r\n\r\n".encode() + content)
    said, events = "", 0
    while line := await reader.readline():
        if line.startswith(b"data: {"):
            events += 1
            said += json.loads(line[6:])["choices"][0]["delta"].get("content", "")
        if line.startswith(b"data: [DONE]") or (stop_after and events > stop_after):
            break
    writer.close()
    return said


def flood(port, bodies, cut):
    async def everyone():
        return await asyncio.gather(
            *(stream_text(port, body, 3 if i in cut else None) for i, body in enumerate(bodies))
        )

    return asyncio.run(everyone())


def test_two_hundred_streams_a_third_of_them_cut_off(server, engine):
    """Survivors get exactly their text; every row is free again; memory does not grow."""
    address, scheduler, uvicorn = server
    port, cut = int(address.rsplit(":", 1)[1]), set(range(0, 200, 3))
    questions = [[{"role": "user", "content": f"Question {i}?"}] for i in range(200)]
    bodies = [
        {"model": "tiny", "messages": q, "temperature": 0, "max_tokens": 24, "stream": True}
        for q in questions
    ]
    prompts = [render_prompt(TOKENIZER, {"messages": q}) for q in questions]
    expected = engine.generate_batch(prompts, temperature=0, max_tokens=24)
    process, sizes = psutil.Process(), []
    for _ in range(2):
        said = flood(port, bodies, cut)
        until(lambda: not scheduler.live and not scheduler.waiting)
        for i in set(range(200)) - cut:
            assert said[i] == text_of(expected[i].tokens)
        until(lambda: not uvicorn.server_state.connections)
        gc.collect()
        sizes.append(process.memory_info().rss)
    assert scheduler.batch.free == 16
    assert sizes[1] - sizes[0] < 30e6, "a second flood needs no more memory than the first"
    assert scheduler.counts["cancelled"] > 0


def test_a_sloth_slows_nobody_and_is_let_go(engine, monkeypatch):
    monkeypatch.setattr(chatlib.server, "WRITE_SECONDS", 1)
    monkeypatch.setattr(chatlib.server, "READ_SECONDS", 1)
    with serving(engine, send_buffer=4096) as (address, scheduler, uvicorn):
        body = {"model": "tiny", "messages": HELLO, "stream": True, "max_tokens": 200}
        body |= {"logprobs": True, "top_logprobs": 20, "temperature": 0.0, "top_k": 40}
        sloth = raw_request(int(address.rsplit(":", 1)[1]), body, receive_buffer=2048)
        assert post(address, GOOD).status_code == 200
        until(lambda: not scheduler.live)
        until(lambda: not uvicorn.server_state.connections)
        sloth.close()


def test_half_open_connections_are_closed(engine, monkeypatch):
    monkeypatch.setattr(chatlib.server, "READ_SECONDS", 0.5)
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
    fields = b"Content-Type: application/json\r\nContent-Length: 500\r\n\r\n"
    starts = [b"", head[:50], head + fields + b"{"]
    with serving(engine) as (address, scheduler, uvicorn):
        port = int(address.rsplit(":", 1)[1])
        connections = [socket.create_connection(("127.0.0.1", port)) for _ in starts]
        for connection, start in zip(connections, starts, strict=True):
            connection.sendall(start)
        until(lambda: not uvicorn.server_state.connections)
        assert b" 408 " in connections[2].recv(1000)
        assert post(address, GOOD).status_code == 200
        assert not scheduler.live


def test_a_reader_who_leaves_before_a_whole_answer_frees_the_row(endless):
    with serving(endless, rows=2) as (address, scheduler, _):
        connection = raw_request(int(address.rsplit(":", 1)[1]), GOOD | {"max_tokens": 4000})
        until(lambda: scheduler.counts["requests"])
        connection.close()
        until(lambda: not scheduler.live)


@pytest.mark.slow
def test_fuzzing_the_published_schema_finds_no_server_error(address, server):
    schemathesis = pytest.importorskip("schemathesis")
    from hypothesis import HealthCheck, Phase, given, settings

    schema = schemathesis.openapi.from_url(f"{address}/openapi.json")
    quick = settings(
        max_examples=60,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    statuses = []
    for mode in schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE:
        for operation in (result.ok() for result in schema.get_all_operations()):
            if operation.method == "get" and mode == schemathesis.GenerationMode.NEGATIVE:
                continue  # it takes nothing that could be wrong

            @quick
            @given(case=operation.as_strategy(generation_mode=mode))
            def attack(case):
                if isinstance(case.body, dict) and isinstance(case.body.get("max_tokens"), int):
                    case.body["max_tokens"] = min(case.body["max_tokens"], 3)
                statuses.append(case.call(timeout=120).status_code)

            attack()
    assert len(statuses) > 150 and max(statuses) < 500
    assert post(address, GOOD).status_code == 200
    until(lambda: not server[1].live, seconds=60)


def test_the_server_stops_promptly_with_streams_open(endless):
    start = time.monotonic()
    with serving(endless) as (address, scheduler, _):
        connection = raw_request(
            int(address.rsplit(":", 1)[1]), GOOD | {"max_tokens": 4000, "stream": True}
        )
        until(lambda: scheduler.counts["requests"])
    connection.close()
    assert time.monotonic() - start < 30


def test_connections_send_each_piece_at_once():
    with listen("127.0.0.1", 0) as listener:
        client = socket.create_connection(listener.getsockname())
        connection, _ = listener.accept()
        with client, connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
