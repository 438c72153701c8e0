"""One dial: the depth of the network decides everything else.

Width, heads, tokens, batch, learning rates and weight decay all follow from `depth` by the laws
below, so that a bigger model is one changed number away. A *scale* is a named preset of that dial
together with the few choices that depend on the machine. Laws and constants are those of the
nanochat recipe; the batch law is arXiv:2505.13738, the weight-decay law arXiv:2405.13698.
"""

import math
from dataclasses import dataclass, replace

from chatlib.errors import ChatlibError
from chatlib.model import GPTConfig

REFERENCE_DEPTH = 12  # the depth at which learning rates, batch and decay were tuned
REFERENCE_BATCH = 2**19  # tokens
REFERENCE_DECAY = 0.28


@dataclass(frozen=True)
class Scale:
    """A named preset. Units: tokens, characters, steps; `lr` values are for the reference width.

    `train_tokens = 0` means "by the law": `tokens_per_param` x scaling parameters. `batch_tokens =
    0` likewise.
    """

    name: str
    corpus: str
    # tokenizer
    vocab_size: int
    max_digits: int
    tokenizer_chars: int
    # model
    depth: int
    width_per_depth: int
    head_dim: int
    sequence_len: int
    # pretraining
    tokens_per_param: float
    train_tokens: int
    train_tokens_slow: int  # where the CPU has no native bfloat16; 0 = the same
    batch_tokens: int
    device_batch: int  # rows per micro-batch on one device; 0 = what fits
    float8: bool  # multiply in 8 bits while pretraining, where the device can
    seed: int  # of the first weights
    matrix_lr: float
    embedding_lr: float
    head_lr: float
    weight_decay: float
    warmup_steps: int
    warmdown: float  # the last fraction of the steps, over which the rate falls linearly
    final_lr: float
    nearby: float  # the first part of the steps, in which attention sees a part of its windows
    eval_tokens: int
    checkpoint_every: int  # steps
    # supervised fine-tuning
    sft_conversations: int
    sft_conversations_slow: int  # where the CPU has no native bfloat16; 0 = the same
    sft_batch_tokens: int
    sft_lr: float  # multiplies the pretraining rates
    sft_warmup: int  # steps
    # reinforcement learning
    rl_steps: int
    rl_questions: int  # a step
    rl_samples: int  # a question
    rl_max_tokens: int
    rl_lr: float
    # machine
    gpus: int


_TINY = Scale(
    name="tiny",
    corpus="world",
    vocab_size=384,
    max_digits=1,
    tokenizer_chars=200_000,
    depth=2,
    width_per_depth=32,
    head_dim=32,
    sequence_len=128,
    tokens_per_param=0,
    train_tokens=40_960,
    train_tokens_slow=0,
    batch_tokens=1024,
    device_batch=8,
    float8=False,
    seed=0,
    matrix_lr=0.02,
    embedding_lr=0.3,
    head_lr=0.008,
    weight_decay=0.0,
    warmup_steps=4,
    warmdown=0.5,
    final_lr=0.05,
    nearby=0.0,
    eval_tokens=4_096,
    checkpoint_every=10,
    sft_conversations=200,
    sft_conversations_slow=0,
    sft_batch_tokens=1024,
    sft_lr=0.3,
    sft_warmup=0,
    rl_steps=2,
    rl_questions=4,
    rl_samples=4,
    rl_max_tokens=24,
    rl_lr=0.05,
    gpus=0,
)

_LAPTOP = replace(
    _TINY,
    name="laptop",
    vocab_size=1024,
    tokenizer_chars=4_000_000,
    depth=4,
    sequence_len=256,
    train_tokens=8_388_608,
    train_tokens_slow=2_359_296,
    batch_tokens=4096,
    device_batch=16,
    matrix_lr=0.04,
    embedding_lr=0.15,
    warmup_steps=20,
    warmdown=0.75,
    final_lr=0.0,
    seed=2,  # from which copying of names is learned early: section 2.3
    eval_tokens=65_536,
    checkpoint_every=200,
    sft_conversations=40_000,
    sft_conversations_slow=20_000,
    sft_batch_tokens=8192,
    sft_lr=0.25,
    sft_warmup=40,
    rl_steps=24,
    rl_questions=24,
    rl_samples=8,
    rl_max_tokens=64,
    rl_lr=0.03,
)

RUN_6 = Scale(  # the fastest merged run of nanochat, by its sixth entry on the leaderboard
    name="run 6",
    corpus="climbmix",
    vocab_size=32_768,
    max_digits=2,
    tokenizer_chars=2_000_000_000,
    depth=24,
    width_per_depth=64,
    head_dim=128,
    sequence_len=2048,
    tokens_per_param=8.0,
    train_tokens=0,
    train_tokens_slow=0,
    batch_tokens=0,
    device_batch=16,
    float8=True,
    seed=0,
    matrix_lr=0.02,
    embedding_lr=0.3,
    head_lr=0.008,
    weight_decay=REFERENCE_DECAY,
    warmup_steps=40,
    warmdown=0.65,
    final_lr=0.05,
    nearby=0.0,
    eval_tokens=20_971_520,
    checkpoint_every=1000,
    sft_conversations=0,
    sft_conversations_slow=0,
    sft_batch_tokens=524_288,
    sft_lr=0.8,
    sft_warmup=0,
    rl_steps=467,
    rl_questions=16,
    rl_samples=16,
    rl_max_tokens=256,
    rl_lr=0.05,
    gpus=8,
)

_NODE = replace(  # the shape of report 830, the rates' fall of report 733 (nanochat)
    RUN_6,
    name="node",
    vocab_size=49_152,
    depth=22,
    tokens_per_param=9.4,
    warmdown=0.85,
    final_lr=0.0,
    nearby=2 / 3,
)

_GPU = replace(
    RUN_6,
    name="gpu",
    depth=12,
    tokenizer_chars=1_000_000_000,
    tokens_per_param=12.0,
    device_batch=0,
    float8=False,
    gpus=1,
)

SCALES = {s.name: s for s in (_TINY, _LAPTOP, _GPU, _NODE)}


def get_scale(name: str, **overrides) -> Scale:
    """The preset called `name`, with single fields replaced; unknown names are refused."""
    if name not in SCALES:
        raise ChatlibError(f"There is no scale {name!r}; choose one of {', '.join(SCALES)}.")
    fields = Scale.__dataclass_fields__
    for key in overrides:
        if key not in fields or key == "name":
            raise ChatlibError(
                f"A scale has no setting {key!r}; its settings are {', '.join(list(fields)[1:])}."
            )
    scale = replace(SCALES[name], **overrides)
    check_scale(scale)
    return scale


def check_scale(scale: Scale) -> None:
    """Refuse a depth, width or batch that cannot be, in one sentence."""
    if scale.depth < 1:
        raise ChatlibError(f"depth={scale.depth} leaves no layer; use a depth of 1 or more.")
    if scale.head_dim < 8 or scale.head_dim % 2:
        raise ChatlibError(
            f"head_dim={scale.head_dim} cannot be; use an even number of at least 8."
        )
    if scale.sequence_len < 8:
        raise ChatlibError(f"sequence_len={scale.sequence_len} is too short; use 8 tokens or more.")
    if scale.float8 not in (False, True) or (scale.float8 and scale.sequence_len % 16):
        raise ChatlibError(
            f"float8={scale.float8} cannot be; use 0, or 1 with rows of a multiple of 16 tokens."
        )
    for name in ("batch_tokens", "sft_batch_tokens"):
        batch = getattr(scale, name)
        if batch < 0 or batch % scale.sequence_len:
            raise ChatlibError(
                f"{name}={batch} is not a whole number of rows of {scale.sequence_len} tokens; "
                f"use a multiple of {scale.sequence_len}."
            )


def model_config(scale: Scale, vocab_size: int | None = None) -> GPTConfig:
    """Depth to network: width is `width_per_depth x depth`, rounded up to whole heads."""
    heads = math.ceil(scale.width_per_depth * scale.depth / scale.head_dim)
    return GPTConfig(
        vocab_size=vocab_size or scale.vocab_size,
        n_layer=scale.depth,
        n_head=heads,
        n_kv_head=heads,
        n_embd=heads * scale.head_dim,
        sequence_len=scale.sequence_len,
    )


@dataclass(frozen=True)
class Parameters:
    """How many numbers a model of this shape holds, by what they do."""

    embedding: int
    value_embeddings: int
    matrices: int
    head: int
    scalars: int

    @property
    def total(self) -> int:
        return self.embedding + self.value_embeddings + self.matrices + self.head + self.scalars

    @property
    def scaling(self) -> int:
        """The count that laws of scale use: the block matrices and the head."""
        return self.matrices + self.head


def count_parameters(config: GPTConfig) -> Parameters:
    """Count by hand, from the shape alone; a test holds it against the live model."""
    c, d, v = config.n_embd, config.n_layer, config.padded_vocab_size
    kv = config.n_kv_head * config.head_dim
    attention = c * c + 2 * c * kv + c * c
    value_layers = sum(map(config.has_value_embedding, range(d)))
    gates = value_layers * config.n_kv_head * min(12, c)
    smear_gate = min(24, c)
    return Parameters(
        embedding=v * c,
        value_embeddings=value_layers * v * kv,
        matrices=d * (attention + 8 * c * c) + gates,
        head=v * c,
        scalars=2 * d + 2 + smear_gate,  # residual and skip lambdas; smear and backout
    )


def flops_per_token(config: GPTConfig) -> float:
    """Floating-point operations to train on one token, forward and backward.

    Six for each scaling parameter (two forward, four backward; arXiv:2001.08361), and twelve for
    each channel and visible key of every layer's attention (arXiv:2204.02311, appendix B).
    """
    dense = 6 * count_parameters(config).scaling
    return dense + 12 * config.n_head * config.head_dim * sum(config.windows())


@dataclass(frozen=True)
class Plan:
    """What pretraining at one scale comes to: the dial, read out."""

    scale: Scale
    config: GPTConfig
    parameters: Parameters
    flops_per_token: float
    tokens: int
    batch_tokens: int
    steps: int
    lr_batch_scale: float  # √(batch / the batch the rates were tuned at)
    weight_decay: float

    @property
    def flops(self) -> float:
        return self.flops_per_token * self.tokens


def make_plan(scale: Scale, vocab_size: int | None = None, slow: bool = False) -> Plan:
    """Read the dial.

    Parameters
    ----------
    scale : the preset.
    vocab_size : tokens of the trained tokenizer; the preset's by default.
    slow : choose the smaller token budget, for a processor without native bfloat16.
    """
    config = model_config(scale, vocab_size)
    parameters = count_parameters(config)
    growth, batch, batch_scale = 1.0, scale.batch_tokens, 1.0
    if scale.train_tokens:  # a small world: measured, not derived
        tokens = scale.train_tokens
        if slow and scale.train_tokens_slow:
            tokens = min(tokens, scale.train_tokens_slow)
    else:
        tokens = int(scale.tokens_per_param * parameters.scaling)
        tuned = model_config(replace(scale, depth=REFERENCE_DEPTH), vocab_size)
        growth = parameters.scaling / count_parameters(tuned).scaling
    if not batch:
        batch = 2 ** round(math.log2(REFERENCE_BATCH * growth**0.383))
        batch_scale = math.sqrt(batch / REFERENCE_BATCH)
    return Plan(
        scale=scale,
        config=config,
        parameters=parameters,
        flops_per_token=flops_per_token(config),
        tokens=tokens,
        batch_tokens=batch,
        steps=max(tokens // batch, 1),
        lr_batch_scale=batch_scale,
        weight_decay=scale.weight_decay * batch_scale / growth,
    )
