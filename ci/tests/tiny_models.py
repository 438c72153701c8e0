"""Real models small enough for tests: one with random weights, one that recites a script."""

import itertools

import torch

from chatlib.model import GPT, GPTConfig
from chatlib.tokenizer import SPECIAL_TOKENS, Tokenizer, split_pattern


def byte_tokenizer(*longer: str) -> Tokenizer:
    """A token a byte, and one for each of the longer texts."""
    tokens = [bytes([i]) for i in range(256)] + [text.encode() for text in longer]
    return Tokenizer({token: i for i, token in enumerate(tokens)}, split_pattern())


def random_model(
    tokenizer: Tokenizer, *, context: int = 128, n_layer: int = 2, seed: int = 0
) -> GPT:
    """A model whose scores differ clearly from token to token and position to position."""
    model = GPT(GPTConfig(tokenizer.vocab_size, n_layer, 4, 2, 64, context, "SL"))
    model.init_weights(seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return model


def reciting_model(tokenizer: Tokenizer, script: list[int], *, context: int = 128) -> GPT:
    """A model that, after each token of the script, is all but sure of the next one.

    Freshly initialized blocks add nothing to the residual stream, so the head sees the newest
    token's embedding alone: with one-hot embeddings the head is a table of successors.
    """
    pairs = list(itertools.pairwise(script))
    assert len({token for token, _ in pairs}) == len(pairs) <= 64, "each token may occur once"
    model = GPT(GPTConfig(tokenizer.vocab_size, 2, 4, 2, 64, context, "SL"))
    model.init_weights()
    with torch.no_grad():
        model.embedding.weight.zero_()
        model.head.weight.zero_()
        for i, (token, following) in enumerate(pairs):
            model.embedding.weight[token, i] = 1.0
            model.head.weight[following, i] = 10.0
    return model


def ids(tokenizer: Tokenizer, *items: str) -> list[int]:
    """Token ids of special names, whole-token texts and single characters, in order."""
    found = []
    for item in items:
        if item in SPECIAL_TOKENS:
            found.append(tokenizer.special(item))
        else:
            one = tokenizer.ranks.get(item.encode())
            found += tokenizer.encode(item) if one is None else [one]
    return found
