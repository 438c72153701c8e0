"""GPT: token ids in, a score for every possible next token out."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chatlib.attention import attend, attention_weights
from chatlib.errors import ChatlibError
from chatlib.kv_cache import KVCache
from chatlib.loss import softcap, softcapped_cross_entropy
from chatlib.precision import Linear

SMEAR_CHANNELS, GATE_CHANNELS = 24, 12  # how many input channels the two kinds of gate read
QK_SCALE = 1.2  # sharpens attention after QK norm
ROPE_BASE = 100_000
ROPE_REACH = 8  # positions known to the rotary table, in context lengths


@dataclass(frozen=True)
class GPTConfig:
    """The shape of a model. Everything else follows."""

    vocab_size: int
    n_layer: int
    n_head: int
    n_kv_head: int
    n_embd: int
    sequence_len: int
    window_pattern: str = "SSSL"

    def __post_init__(self) -> None:
        if self.n_embd % self.n_head or self.head_dim % 2:
            raise ChatlibError(
                f"n_embd {self.n_embd} over n_head {self.n_head} must give a whole, even head size."
            )
        if self.n_head % self.n_kv_head:
            raise ChatlibError(
                f"n_head {self.n_head} must be a multiple of n_kv_head {self.n_kv_head}."
            )
        if not self.window_pattern or set(self.window_pattern) - set("SL"):
            raise ChatlibError(
                f'window_pattern "{self.window_pattern}" may only hold S (short) and L (long).'
            )

    @property
    def head_dim(self) -> int:
        return self.n_embd // self.n_head

    @property
    def padded_vocab_size(self) -> int:
        """Rounded up to a multiple of 64, which matrix units like; the extra logits are cropped."""
        return -(-self.vocab_size // 64) * 64

    def windows(self) -> tuple[int, ...]:
        """How far back each layer looks: the pattern tiled, a quarter context for S, the last L."""
        long = self.sequence_len
        short = min(long, math.ceil(long / 4 / 128) * 128)
        tiled = [self.window_pattern[i % len(self.window_pattern)] for i in range(self.n_layer)]
        return tuple(short if kind == "S" else long for kind in [*tiled[:-1], "L"])

    def has_value_embedding(self, layer: int) -> bool:
        """Every other layer has a value table, the last one always."""
        return layer % 2 == (self.n_layer - 1) % 2

    def to_dict(self) -> dict:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict) -> "GPTConfig":
        return cls(**data)


def norm(x: Tensor) -> Tensor:
    """Divide each vector by its root mean square: x (..., C), no parameters (arXiv 1910.07467)."""
    return F.rms_norm(x, (x.size(-1),))


def rotary_table(length: int, head_dim: int) -> Tensor:
    """The rotary angles of positions 0..length-1 as cosines and sines: (2, length, 1, D/2)."""
    pair = torch.arange(0, head_dim, 2, device="cpu", dtype=torch.float32)
    position = torch.arange(length, device="cpu", dtype=torch.float32)
    angle = position[:, None, None] * ROPE_BASE ** (-pair / head_dim)
    return torch.stack((angle.cos(), angle.sin()))


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair (i, i + D/2) of x (B, T, H, D) by its angle (arXiv 2104.09864)."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1).to(x.dtype)


class Attention(nn.Module):
    """Queries, keys and values from one matrix; rotary positions; QK norm; grouped key heads."""

    def __init__(self, config: GPTConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.window = layer, config.windows()[layer]
        self.head_dim = config.head_dim
        sizes = [config.n_head * self.head_dim] + 2 * [config.n_kv_head * self.head_dim]
        self.qkv = Linear(config.n_embd, sum(sizes))
        self.qkv.weight.parts = sizes  # three matrices stored as one; Muon treats each on its own
        self.out = Linear(sizes[0], config.n_embd)
        if config.has_value_embedding(layer):
            self.value_gate = Linear(min(GATE_CHANNELS, config.n_embd), config.n_kv_head)

    def forward(self, x, value_embedding, rope, cache: KVCache | None, observe) -> Tensor:
        B, T, _ = x.shape
        q, k, v = (
            part.view(B, T, -1, self.head_dim)
            for part in self.qkv(x).split(self.qkv.weight.parts, dim=-1)
        )
        if value_embedding is not None:
            gate = 3 * torch.sigmoid(self.value_gate(x[..., : self.value_gate.in_features]))
            v = v + gate[..., None] * value_embedding.view_as(v)
        q, k = (norm(rotate(part, *rope)) * QK_SCALE for part in (q, k))
        positions = None
        if cache is not None:
            positions = cache.positions(T)
            k, v = cache.update(self.layer, k, v)
        if observe is not None:
            observe(attention_weights(q, k, self.window, positions))
        y = attend(q, k, v, window=self.window, positions=positions)
        return self.out(y.reshape(B, T, -1))


class MLP(nn.Module):
    """Widen four times, square what is positive, narrow again (arXiv 2109.08668)."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.up = Linear(config.n_embd, 4 * config.n_embd)
        self.down = Linear(4 * config.n_embd, config.n_embd)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.relu(self.up(x)).square())


class Block(nn.Module):
    """Attention moves information between positions, the MLP works on each position alone."""

    def __init__(self, config: GPTConfig, layer: int) -> None:
        super().__init__()
        self.attention = Attention(config, layer)
        self.mlp = MLP(config)

    def forward(self, x, value_embedding, rope, cache, observe) -> Tensor:
        x = x + self.attention(norm(x), value_embedding, rope, cache, observe)
        return x + self.mlp(norm(x))


class GPT(nn.Module):
    """The model. `dtype` is what activations are computed in; parameters are float32.

    Call `init_weights` (or load a checkpoint) before use: construction leaves weights arbitrary.
    """

    def __init__(self, config: GPTConfig, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.config, self.dtype = config, dtype
        V, C, L = config.padded_vocab_size, config.n_embd, config.n_layer
        kv_width = config.n_kv_head * config.head_dim
        self.embedding = nn.Embedding(V, C)
        self.smear_gate = Linear(min(SMEAR_CHANNELS, C), 1)
        self.smear_scale = nn.Parameter(torch.empty(1))
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(L))
        self.value_embeddings = nn.ModuleDict(
            {str(i): nn.Embedding(V, kv_width) for i in range(L) if config.has_value_embedding(i)}
        )
        self.residual_scales = nn.Parameter(torch.empty(L))
        self.embedding_scales = nn.Parameter(torch.empty(L))
        self.backout_scale = nn.Parameter(torch.empty(1))
        self.head = Linear(C, V)  # the loss reads its weight
        self.register_buffer("rotary", self._rotary_table(), persistent=False)

    def _rotary_table(self) -> Tensor:
        return rotary_table(ROPE_REACH * self.config.sequence_len, self.config.head_dim)

    @torch.no_grad()
    def init_weights(self, seed: int = 0) -> None:
        """Draw every parameter anew from `seed`, the same on every device.

        A model built on the meta device needs this call after `to_empty`, before any checkpoint.
        """
        self.rotary.copy_(self._rotary_table())
        generator = torch.Generator().manual_seed(seed)

        def fill(weight: Tensor, kind: str, size: float) -> None:
            drawn = torch.empty(weight.shape)
            if kind == "normal":
                drawn.normal_(0, size, generator=generator)
            else:
                drawn.uniform_(-size if kind == "symmetric" else 0, size, generator=generator)
            weight.copy_(drawn)

        bound = math.sqrt(3 / self.config.n_embd)
        fill(self.embedding.weight, "normal", 0.8)
        fill(self.head.weight, "normal", 0.001)
        for table in self.value_embeddings.values():
            fill(table.weight, "symmetric", bound)
        for block in self.blocks:
            fill(block.attention.qkv.weight, "symmetric", bound)
            fill(block.mlp.up.weight, "symmetric", 0.4 * bound)
            block.attention.out.weight.zero_()
            block.mlp.down.weight.zero_()
            if hasattr(block.attention, "value_gate"):
                fill(block.attention.value_gate.weight, "positive", 0.02)
        fill(self.smear_gate.weight, "positive", 0.02)
        self.smear_scale.zero_()
        self.backout_scale.fill_(0.2)
        n = self.config.n_layer
        self.residual_scales.copy_(torch.linspace(1.15, 1.05, n))
        self.embedding_scales.copy_(torch.linspace(0.20, 0.05, n))

    def smear(self, x: Tensor, cache: KVCache | None) -> Tensor:
        """Let a little of the previous token's embedding leak into each token's: x (B, T, C)."""
        if cache is None:
            previous = F.pad(x, (0, 0, 1, 0))[:, :-1]
        else:
            previous = torch.cat((cache.previous.to(x.dtype), x[:, :-1]), dim=1)
        gate = torch.sigmoid(self.smear_gate(x[..., : self.smear_gate.in_features]))
        return x + self.smear_scale.to(x.dtype) * gate * previous

    def features(
        self,
        ids: Tensor,
        cache: KVCache | None = None,
        observe: Callable[[Tensor], None] | None = None,
    ) -> Tensor:
        """The residual stream that the head reads: ids (B, T) -> (B, T, C).

        `observe` is called in every layer with its attention weights (B, H, T, S).
        """
        T = ids.size(1)
        rope = self.rotary[:, :T] if cache is None else self.rotary[:, cache.positions(T)]
        embedded = norm(self.embedding(ids).to(self.dtype))
        x = first = self.smear(embedded, cache)
        middle = x
        for i, block in enumerate(self.blocks):
            has_table = self.config.has_value_embedding(i)
            values = self.value_embeddings[str(i)](ids).to(x.dtype) if has_table else None
            x = self.residual_scales[i] * x + self.embedding_scales[i] * first
            x = block(x, values, rope, cache, observe)
            if i == self.config.n_layer // 2:
                middle = x
        if cache is not None:
            cache.advance(T, embedded)
        return norm(x - self.backout_scale.to(x.dtype) * middle)

    def forward(
        self,
        ids: Tensor,
        targets: Tensor | None = None,
        cache: KVCache | None = None,
        reduction: str = "mean",
    ) -> Tensor:
        """ids (B, T) -> float32 logits (B, T, vocab_size), or the loss in nats of targets (B, T).

        Targets of -1 are ignored. reduction "mean" is over the targets that count (0 if none does),
        "sum" adds them, "none" returns (B, T).
        """
        x = self.features(ids, cache)
        head = self.head.weight[: self.config.vocab_size]
        if targets is None:
            return softcap(F.linear(x, head.to(x.dtype)))
        flat, wanted = x.flatten(0, 1), targets.flatten()
        loss = softcapped_cross_entropy(flat, head, wanted, reduction, self.head.float8)
        return loss.view_as(targets) if reduction == "none" else loss

    def set_reach(self, share: float) -> bool:
        """Let attention look back over only a share of its windows; True if that is new."""
        before = [block.attention.window for block in self.blocks]
        for block, window in zip(self.blocks, self.config.windows(), strict=True):
            block.attention.window = max(int(share * window), 1)
        return before != [block.attention.window for block in self.blocks]

    @torch.no_grad()
    def attention_maps(self, ids: Tensor) -> Tensor:
        """Who looks at whom: ids (B, T) -> (L, B, H, T, T), each row summing to 1."""
        maps: list[Tensor] = []
        self.features(ids, observe=maps.append)
        return torch.stack(maps)

    def num_params(self) -> dict[str, int]:
        """How many parameters each group has, and their total."""
        counts = {
            "embedding": self.embedding.weight.numel(),
            "value_embeddings": sum(p.numel() for p in self.value_embeddings.parameters()),
            "blocks": sum(p.numel() for p in self.blocks.parameters()),
            "head": self.head.weight.numel(),
        }
        total = sum(p.numel() for p in self.parameters())
        return {**counts, "scalars": total - sum(counts.values()), "total": total}
