"""Speculative decoding: guess several tokens, check them all in one step, keep what is right.

Reading five tokens at once costs little more than reading one: the weights are fetched once either
way. The guesses come from the text itself (arXiv 2304.04487):
where the last few tokens have occurred before, whatever followed them then is a guess. The model
scores all guesses in one pass; those that equal its own best choice are kept, so the result is
what greedy decoding writes, token for token, in fewer passes.
"""

from collections.abc import Sequence

import torch

from chatlib.engine import Engine, Reply
from chatlib.kv_cache import KVCache
from chatlib.sampling import Sampling


def guess(tokens: Sequence[int], count: int, longest: int = 4) -> list[int]:
    """Up to `count` tokens that followed the latest earlier occurrence of the last few tokens.

    A longer match is the better guide: `longest` tokens are tried first, then fewer, down to one.
    """
    for size in range(min(longest, len(tokens) - 1), 0, -1):
        ending = tokens[-size:]
        for start in range(len(tokens) - size - 1, -1, -1):
            if tokens[start : start + size] == ending:
                return list(tokens[start + size : start + size + count])
    return []


@torch.inference_mode()
def generate_speculative(
    engine: Engine, prompt: Sequence[int], *, max_tokens: int = 256, guesses: int = 4, tools=True
) -> tuple[Reply, int]:
    """Continue a prompt greedily -> the reply and the number of passes it took.

    Without a right guess there is one pass a token; at best one for every guesses + 1 tokens.
    """
    engine.check(prompt)
    reply = Reply(list(prompt), Sampling(temperature=0), max_tokens, tools=tools)
    cache = KVCache(
        engine.model.config, 1, engine.context + guesses, engine.device, engine.model.dtype
    )
    read, passes = list(prompt), 1
    chosen = [int(engine.read([read], cache)[0].argmax())]
    while not _accept(chosen, reply, engine):
        tokens = reply.prompt + reply.tokens
        right = _agreement(read, tokens)
        cache.rewind(len(read) - right)
        guessed = guess(tokens, guesses)
        read = tokens + guessed
        scores = engine.model(torch.tensor([read[right:]], device=engine.device), cache=cache)
        chosen = _borne_out(guessed, scores[0, len(tokens) - right - 1 :].argmax(-1).tolist())
        passes += 1
    return reply, passes


def _accept(chosen: list[int], reply: Reply, engine: Engine) -> bool:
    """Write the tokens, and what a tool answers in their midst; True when the reply has ended."""
    for token in chosen:
        reply.take(token, engine)
        called = bool(reply.forced)
        while reply.forced and not reply.finish:
            reply.take(token, engine)
        if called or reply.finish:
            break
    return reply.finish is not None


def _agreement(read: list[int], tokens: list[int]) -> int:
    """How many of the tokens read are the text's; its last token always has to be read again."""
    limit = min(len(read), len(tokens) - 1)
    return next((i for i in range(limit) if read[i] != tokens[i]), limit)


def _borne_out(guessed: list[int], chosen: list[int]) -> list[int]:
    """The choices up to and including the first that differs from its guess."""
    wrong = (i for i, token in enumerate(guessed) if token != chosen[i])
    return chosen[: next(wrong, len(guessed)) + 1]
