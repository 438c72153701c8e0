"""What a request may say: one JSON schema per endpoint, checked here and published as OpenAPI.

The fields are those of OpenAI's API that mean something for this model (truncation comes from its
Responses), and a few of our own: top_k, min_p and repetition_penalty, and the parts of an assistant
message that a tool has a share in. Anything else is refused by name rather than silently ignored.
"""

import json
import math
from typing import Any

from chatlib.errors import ChatlibError
from chatlib.sampling import LIMITS

MAX_CHARS, MAX_MESSAGE_CHARS, MAX_MESSAGES, MAX_TOKENS = 32_000, 8_000, 500, 4096
TYPES = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "array": list,
    "object": dict,
}


def _between(kind: str, low: float, high: float) -> dict[str, Any]:
    return {"type": kind, "minimum": low, "maximum": high}


def _object(required: list[str], closed: bool = True, **properties: dict) -> dict[str, Any]:
    schema = {"type": "object", "required": required, "properties": properties}
    return schema | ({"additionalProperties": False} if closed else {})


PART = _object(
    ["type", "text"],
    type={"type": "string", "enum": ["text", "python", "python_output"]},
    text={"type": "string", "maxLength": MAX_MESSAGE_CHARS},
)
MESSAGE = _object(
    ["role", "content"],
    closed=False,  # clients add a name, a refusal and the like
    role={"type": "string", "enum": ["system", "developer", "user", "assistant"]},
    content={"type": ["string", "array"], "maxLength": MAX_MESSAGE_CHARS, "items": PART},
)
SHARED = {
    "model": {"type": "string"},
    "stream": {"type": "boolean"},
    "stream_options": _object([], include_usage={"type": "boolean"}),
    "max_tokens": _between("integer", 1, MAX_TOKENS),
    "temperature": _between("number", *LIMITS["temperature"]),
    "top_k": _between("integer", *LIMITS["top_k"]),
    "top_p": _between("number", *LIMITS["top_p"]),
    "min_p": _between("number", *LIMITS["min_p"]),
    "repetition_penalty": _between("number", *LIMITS["repetition"]),
    "seed": _between("integer", -(2**63), 2**63 - 1),
    "n": _between("integer", 1, 1),
    "user": {"type": "string"},
}
CHAT = _object(
    ["model", "messages"],
    messages={"type": "array", "minItems": 1, "maxItems": MAX_MESSAGES, "items": MESSAGE},
    max_completion_tokens=SHARED["max_tokens"],
    logprobs={"type": "boolean"},
    top_logprobs=_between("integer", 0, 20),
    truncation={"type": "string", "enum": ["auto", "disabled"]},
    **SHARED,
)
COMPLETION = _object(
    ["model", "prompt"], prompt={"type": "string", "maxLength": MAX_CHARS}, **SHARED
)


class Refusal(ChatlibError):
    """A request that is not served: an HTTP status, one sentence, and the field it is about."""

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code=None, **headers
    ):
        super().__init__(message)
        self.status, self.param, self.code = status, param, code
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}

    def body(self) -> dict[str, Any]:
        """The error in the shape that OpenAI's clients read."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        error = {"message": str(self), "type": kind, "param": self.param, "code": self.code}
        return {"error": error}


def parse(body: bytes, schema: dict[str, Any]) -> dict[str, Any]:
    """The JSON object in a request's body, checked; fields that are null count as absent."""
    try:
        value = json.loads(body.decode(), parse_constant=_no_constant)
        json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair is no text
    except (ValueError, RecursionError):
        raise Refusal(400, "The body is not valid JSON in UTF-8; send one JSON object.") from None
    if isinstance(value, dict):
        value = {name: item for name, item in value.items() if item is not None}
    check(value, schema, "")
    return value


def _no_constant(name: str):
    raise ValueError(name)


def check(value: Any, schema: dict[str, Any], name: str) -> None:
    """Refuse a value that breaks the schema; name is the field, such as messages[0].role."""

    def refuse(must: str):
        raise Refusal(400, f"{name or 'The body'} must {must}.", param=name or None)

    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    if not any(_is(value, kind) for kind in kinds):
        refuse(f"be of type {' or '.join(kinds)}")
    if "enum" in schema and value not in schema["enum"]:
        refuse(f"be one of {', '.join(schema['enum'])}")
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and not low <= value <= high:
        refuse(f"be from {low} to {high}")
    if isinstance(value, str) and len(value) > schema.get("maxLength", MAX_CHARS):
        refuse(f"have at most {schema.get('maxLength', MAX_CHARS):,} characters")
    if isinstance(value, list):
        if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", MAX_MESSAGES):
            refuse(f"have {schema.get('minItems', 0)} to {MAX_MESSAGES} items")
        for i, item in enumerate(value):
            check(item, schema["items"], f"{name}[{i}]")
    if isinstance(value, dict):
        _check_fields(value, schema, f"{name}." if name else "")


def _check_fields(value: dict[str, Any], schema: dict[str, Any], prefix: str) -> None:
    for field in schema["required"]:
        if field not in value:
            raise Refusal(400, f"{prefix}{field} is missing.", param=prefix + field)
    for field, item in value.items():
        if field in schema["properties"]:
            check(item, schema["properties"][field], prefix + field)
        elif schema.get("additionalProperties") is False:
            known = ", ".join(schema["properties"])
            shown = f"{prefix}{field[:40]}"
            raise Refusal(400, f"{shown} is not supported; the fields are {known}.", param=shown)


def _is(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    return isinstance(value, TYPES[kind]) and (not isinstance(value, float) or math.isfinite(value))


def openapi(title: str) -> dict[str, Any]:
    """The OpenAPI document of the server."""
    answer = {"description": "The answer, as JSON or as server-sent events."}
    error = {"description": "One sentence that says what was wrong.", "content": {}}
    error["content"]["application/json"] = {"schema": _object(["error"], error={"type": "object"})}
    errors = {str(code): error for code in (400, 401, 404, 408, 413, 415, 429)}
    paths = {
        path: {"get": {"responses": {"200": {"description": what}, "401": error}}}
        for path, what in {
            "/health": "The server is up.",
            "/metrics": "Counters in Prometheus text format.",
            "/v1/models": "The one model served.",
        }.items()
    }
    for path, schema in {"/v1/chat/completions": CHAT, "/v1/completions": COMPLETION}.items():
        body = {"required": True, "content": {"application/json": {"schema": schema}}}
        paths[path] = {"post": {"requestBody": body, "responses": {"200": answer, **errors}}}
    return {"openapi": "3.1.0", "info": {"title": title, "version": "1"}, "paths": paths}
