"""Keys and values of the tokens already read, so that decoding never computes them twice."""

import torch
from torch import Tensor


class KVCache:
    """Room for `max_len` tokens in each of `batch` rows; rows may be filled to different lengths.

    keys, values  one (B, max_len, n_kv_head, D) tensor a layer
    lengths       (B,) tokens stored in each row
    previous      (B, 1, C) the newest token's embedding before the smear, zeros for an empty row

    Read a chunk: the model calls `update` in every layer and then `advance` once.
    """

    def __init__(
        self,
        config,
        batch: int,
        max_len: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        shape = (batch, max_len, config.n_kv_head, config.head_dim)
        layers = range(config.n_layer)
        self.keys = [torch.zeros(shape, device=device, dtype=dtype) for _ in layers]
        self.values = [torch.zeros(shape, device=device, dtype=dtype) for _ in layers]
        self.lengths = torch.zeros(batch, device=device, dtype=torch.long)
        self.previous = torch.zeros(batch, 1, config.n_embd, device=device, dtype=dtype)
        self.rows = torch.arange(batch, device=device)[:, None]
        self.max_len = max_len
        self.end = 0  # the longest row, known to the host without asking the device

    @classmethod
    def over(
        cls, keys: list[Tensor], values: list[Tensor], lengths: Tensor, previous: Tensor
    ) -> "KVCache":
        """A cache that writes into these tensors, with room for one more token in every row.

        Attention spans their whole length, which the host knows: what a compiled step needs.
        """
        cache = object.__new__(cls)
        cache.keys, cache.values, cache.lengths, cache.previous = keys, values, lengths, previous
        cache.rows = torch.arange(len(lengths), device=lengths.device)[:, None]
        cache.max_len = keys[0].size(1)
        cache.end = cache.max_len - 1
        return cache

    def positions(self, n: int) -> Tensor:
        """(B, n): where the next n tokens of each row go."""
        return self.lengths[:, None] + torch.arange(n, device=self.lengths.device)

    def update(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store k, v (B, T, n_kv_head, D) after each row's tokens; return all (B, S, n_kv_head, D).

        S covers the longest row, so a shorter row sees stale keys at its end: mask by position.
        """
        n = k.size(1)
        assert self.end + n <= self.max_len, f"cache of {self.max_len} cannot take {n} more"
        where = self.positions(n)
        keys, values = self.keys[layer], self.values[layer]
        keys[self.rows, where] = k
        values[self.rows, where] = v
        return keys[:, : self.end + n], values[:, : self.end + n]

    def advance(self, n: int, embedding: Tensor) -> None:
        """Count the n tokens just stored; the smear will look back at their embedding (B, n, C)."""
        self.chunk, self.previous = embedding, embedding[:, -1:]
        self.lengths = self.lengths + n
        self.end += n

    def rewind(self, n: int) -> None:
        """Forget the newest n tokens of every row; at least one of the last chunk must stay."""
        stay = self.chunk.size(1) - n
        assert stay > 0, f"the last chunk has {self.chunk.size(1)} tokens, so {n} is too many"
        self.chunk, self.previous = self.chunk[:, :stay], self.chunk[:, stay - 1 : stay]
        self.lengths = self.lengths - n
        self.end -= n
