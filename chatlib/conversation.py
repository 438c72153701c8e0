"""Conversations as token ids, with a mask that says which tokens the assistant has to learn.

    conversation = <|bos|> then turns, user and assistant
    turn         = <|user_start|> text <|user_end|>
                 | <|assistant_start|> part … <|assistant_end|>
    part         = text
                 | <|python_start|> text <|python_end|>     the assistant calls a tool
                 | <|output_start|> text <|output_end|>     the tool answers

A conversation is `{"messages": [{"role": …, "content": …}, …]}`: an optional system message, then
user and assistant in turn. Content is a string; the assistant's may also be a list of parts
`{"type": "text" | "python" | "python_output", "text": …}`.
"""

from collections.abc import Iterable

from chatlib.errors import ChatlibError
from chatlib.tokenizer import Tokenizer

# part type -> the special tokens around it, and whether the assistant writes it (mask 1)
PARTS = {
    "text": (None, None, 1),
    "python": ("<|python_start|>", "<|python_end|>", 1),
    "python_output": ("<|output_start|>", "<|output_end|>", 0),
}


def render(
    tokenizer: Tokenizer, conversation: dict, max_tokens: int | None = 2048
) -> tuple[list[int], list[int]]:
    """Ids and loss mask of a conversation, two lists of one length, cut at `max_tokens`.

    The mask is 1 on what the assistant must write (text, tool calls, <|assistant_end|>) and 0 on
    what it is given. Raises ChatlibError for a malformed conversation.
    """
    ids, mask = [tokenizer.bos], [0]
    for message in _turns(conversation):
        role, content = message["role"], message["content"]
        learns = int(role == "assistant")
        ids.append(tokenizer.special(f"<|{role}_start|>"))
        mask.append(0)
        for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
            opening, closing, written = PARTS[part["type"]]
            text = tokenizer.encode(part["text"])  # each part on its own: no token straddles two
            if opening:
                text = [tokenizer.special(opening), *text, tokenizer.special(closing)]
            ids += text
            mask += [learns * written] * len(text)
        ids.append(tokenizer.special(f"<|{role}_end|>"))
        mask.append(learns)
    return ids[:max_tokens], mask[:max_tokens]


def render_prompt(tokenizer: Tokenizer, conversation: dict) -> list[int]:
    """Ids up to the last user message, then <|assistant_start|>: the assistant's turn to write.

    An answer that already stands at the end (a reference answer, say) is left out.
    """
    messages = _turns(conversation)
    if messages[-1]["role"] == "assistant":
        messages = messages[:-1]
    ids, _ = render(tokenizer, {"messages": messages}, max_tokens=None)
    return [*ids, tokenizer.special("<|assistant_start|>")]


def recent(tokenizer: Tokenizer, messages: list[dict], longest: int) -> list[dict]:
    """The messages without the oldest exchanges, so that the prompt has some `longest` tokens at
    most. A system message and the last question always stay, however long they are.
    """
    start = int(messages[0]["role"] == "system")
    first = len(messages) - 1
    left = longest - len(render_prompt(tokenizer, {"messages": [*messages[:start], messages[-1]]}))
    while first >= start + 2:
        exchange, _ = render(tokenizer, {"messages": messages[first - 2 : first]}, max_tokens=None)
        left -= len(exchange) - 1  # its bos counts for the whole prompt
        if left < 0:
            break
        first -= 2
    return [*messages[:start], *messages[first:]]


def parse_assistant(tokenizer: Tokenizer, ids: Iterable[int]) -> list[dict]:
    """Parts of what the assistant wrote, from the ids after <|assistant_start|>.

    The inverse of rendering a list of parts, and forgiving, for models err: a part left open is
    closed, a special token out of place only ends the part before it, and reading stops at
    <|assistant_end|> or <|bos|>.
    """
    openings = {tokenizer.special(o): kind for kind, (o, _, _) in PARTS.items() if o}
    specials = set(tokenizer.special_ids.values())
    stops = {tokenizer.special("<|assistant_end|>"), tokenizer.bos}
    parts, kind, pending = [], "text", []

    def close() -> None:
        if pending or kind != "text":
            parts.append({"type": kind, "text": tokenizer.decode(pending)})
        pending.clear()

    for token in ids:
        if token in stops:
            break
        if token in specials:
            close()
            kind = openings.get(token, "text")
        else:
            pending.append(token)
    close()
    return parts


def _turns(conversation: dict) -> list[dict]:
    """The messages, checked, with a system message merged into the first user message."""
    messages = conversation.get("messages") if isinstance(conversation, dict) else None
    if not isinstance(messages, list) or not messages:
        raise ChatlibError('A conversation is {"messages": [...]} with at least one message.')
    for i, message in enumerate(messages):
        if not isinstance(message, dict) or not {"role", "content"} <= message.keys():
            raise ChatlibError(f"Message {i} must be an object with a role and a content.")
        content = message["content"]
        parts_allowed = message["role"] == "assistant" and isinstance(content, list)
        if not isinstance(content, str) and not (parts_allowed and all(map(_is_part, content))):
            raise ChatlibError(
                f"Message {i} must be a string, or if it is the assistant's a list of parts "
                f"with a text and a type, one of {', '.join(PARTS)}."
            )
    system = messages[0]["content"] if messages[0]["role"] == "system" else None
    turns = messages if system is None else messages[1:]
    for i, role in enumerate([turn["role"] for turn in turns] or ["nobody"]):
        due = ("user", "assistant")[i % 2]
        if role != due:
            raise ChatlibError(
                f"Turn {i} is from {role!r} where {due!r} is due: after an optional system "
                "message, user and assistant take turns, and the user begins."
            )
    if system is not None:
        turns = [{"role": "user", "content": f"{system}\n\n{turns[0]['content']}"}, *turns[1:]]
    return turns


def _is_part(part: object) -> bool:
    return (
        isinstance(part, dict)
        and part.get("type") in list(PARTS)
        and isinstance(part.get("text"), str)
    )
