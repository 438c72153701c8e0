"""What a run will cost before it is started: memory, seconds a step, hours, dollars.

Every figure here is *projected* from a formula. The rates were fitted to what is published of the
nanochat reference run (depth 24 on 8xH100, 1.067 s a step) and are kept apart from the formulas, so
that a reader can put in her own.
"""

from dataclasses import dataclass, replace

from chatlib.errors import ChatlibError
from chatlib.model import GPTConfig
from chatlib.scaling import Plan, Scale, count_parameters, flops_per_token, make_plan

GB = 1e9


@dataclass(frozen=True)
class Device:
    """Rates of one accelerator: FLOP/s, bytes/s, bytes, dollars an hour (rented, mid-2026)."""

    name: str
    bf16: float  # dense peak, FLOP/s
    fp8: float  # dense peak; 0 where there is none
    bandwidth: float  # memory, bytes/s
    memory: float  # bytes
    link: float  # bytes/s that a collective sustains per device
    price: float


DEVICES = {
    d.name: d
    for d in (
        Device("RTX 3070", 81e12, 0, 448e9, 8 * GB, 12e9, 0.15),
        Device("RTX 4080", 97e12, 195e12, 717e9, 16 * GB, 12e9, 0.30),
        Device("RTX 4090", 165e12, 330e12, 1008e9, 24 * GB, 12e9, 0.45),
        Device("A100", 312e12, 0, 2039e9, 80 * GB, 235e9, 1.50),
        Device("H100", 989e12, 1979e12, 3350e9, 80 * GB, 370e9, 3.00),
        Device("H200", 989e12, 1979e12, 4800e9, 141 * GB, 370e9, 3.50),
    )
}


def get_device(name: str) -> Device:
    """The device called `name`."""
    if name not in DEVICES:
        raise ChatlibError(f"No figures for a device {name!r}; known are {', '.join(DEVICES)}.")
    return DEVICES[name]


@dataclass(frozen=True)
class Rates:
    """How much of a peak each kind of work reaches; fitted to the reference run's step [C]."""

    fp8_gemm: float = 0.54  # of the fp8 peak: 500-575 ms for 5.7e14 FLOP
    bf16_gemm: float = 0.68  # of the bf16 peak: what large bf16 products reach
    attention: float = 0.37  # of the bf16 peak: FlashAttention-3, forward and backward together
    memory: float = 0.80  # of the memory bandwidth, for element-wise work
    glue_bytes: float = 166.0  # moved per token, layer and channel: norms, rotary, relu², casts
    logit_bytes: float = (
        16.0  # moved per token and vocabulary entry, unfused softcap and cross-entropy
    )
    accumulate_bytes: float = 12.0  # moved per parameter and micro-batch: cast, accumulate
    muon: float = 0.50  # of the bf16 peak
    data_seconds: float = 0.0015
    overlap: float = 0.0  # share of the communication hidden behind the backward pass
    relative_error: float = 0.05  # stated error of the sum


@dataclass(frozen=True)
class StepTime:
    """Seconds of one optimizer step on each device, by component."""

    gemm: float
    attention: float
    logits: float
    glue: float
    accumulate: float
    optimizer: float
    communication: float
    data: float

    @property
    def total(self) -> float:
        return sum(vars(self).values())


def muon_flops(config: GPTConfig) -> float:
    """FLOPs of five Polar Express steps over all block matrices, m <= n: 4m²n + 2m³ a step."""
    c = config.n_embd
    kv = config.n_kv_head * config.head_dim
    shapes = [(c, c), (kv, c), (kv, c), (c, c), (c, 4 * c), (c, 4 * c)]
    return config.n_layer * sum(5 * (4 * m * m * n + 2 * m**3) for m, n in shapes)


def step_time(
    config: GPTConfig,
    batch_tokens: int,
    device: Device,
    gpus: int,
    rows: int,
    fp8: bool = True,
    rates: Rates | None = None,
) -> StepTime:
    """Seconds a step.

    Parameters
    ----------
    config : the model's shape.
    batch_tokens : tokens of one optimizer step, over all devices.
    device, gpus : what it runs on.
    rows : rows of `sequence_len` tokens in one micro-batch of one device.
    fp8 : use eight-bit products where the device has them.
    """
    rates = rates or Rates()
    parameters = count_parameters(config)
    tokens = batch_tokens / gpus
    micro = max(tokens / (rows * config.sequence_len), 1)
    moved = device.bandwidth * rates.memory
    gemm_rate = device.fp8 * rates.fp8_gemm if fp8 and device.fp8 else device.bf16 * rates.bf16_gemm
    dense = 6 * parameters.scaling
    stream = 3 * parameters.total * (gpus - 1) / gpus  # bytes each way: bf16 tables, fp32 matrices
    if gpus == 1:
        stream = 0.0
    return StepTime(
        gemm=tokens * dense / gemm_rate,
        attention=tokens * (flops_per_token(config) - dense) / (device.bf16 * rates.attention),
        logits=tokens * config.padded_vocab_size * rates.logit_bytes / moved,
        glue=tokens * config.n_layer * config.n_embd * rates.glue_bytes / moved,
        accumulate=micro * parameters.total * rates.accumulate_bytes / moved,
        optimizer=muon_flops(config) / gpus / (device.bf16 * rates.muon),
        communication=2 * stream / device.link * (1 - rates.overlap),
        data=rates.data_seconds,
    )


@dataclass(frozen=True)
class Memory:
    """Bytes on each device while it trains."""

    weights: float
    gradients: float
    optimizer: float
    activations: float
    logits: float
    overhead: float = 2.0 * GB  # context, workspace, fragmentation

    @property
    def total(self) -> float:
        return sum(vars(self).values())


def memory(config: GPTConfig, rows: int, gpus: int = 1, device_type: str = "cuda") -> Memory:
    """Bytes needed with `rows` rows in a micro-batch.

    Tables are stored in bfloat16 and matrices in float32; gradients have their parameter's type.
    AdamW keeps two moments, Muon one and a vector; both are spread over the devices. An activation
    checkpoint-free layer keeps about 34 values a channel in bfloat16 (norms, q, k, v, attention's
    output, the wide layer twice).
    """
    p = count_parameters(config)
    tables = p.embedding + p.value_embeddings
    wide, narrow = (4, 2) if device_type == "cuda" else (4, 4)
    weights = tables * narrow + (p.matrices + p.head) * wide
    moments = (2 * tables * narrow + 2 * p.head * 4 + p.matrices * 4) / gpus
    tokens = rows * config.sequence_len
    return Memory(
        weights=weights,
        gradients=weights,
        optimizer=moments,
        activations=tokens * config.n_layer * config.n_embd * 34 * narrow,
        logits=tokens * config.padded_vocab_size * (4 + narrow),
        overhead=2.0 * GB if device_type == "cuda" else 0.3 * GB,
    )


def fitting_rows(config: GPTConfig, free_bytes: float, batch_tokens: int, gpus: int = 1) -> int:
    """The largest power of two of rows that fits and divides the batch; 0 if not even one row
    does."""
    share = batch_tokens // gpus // config.sequence_len
    rows = 1
    if memory(config, 1, gpus).total > free_bytes:
        return 0
    while (
        rows * 2 <= share
        and share % (rows * 2) == 0
        and memory(config, rows * 2, gpus).total <= free_bytes
    ):
        rows *= 2
    return rows


@dataclass(frozen=True)
class Estimate:
    """A run on given hardware, projected."""

    plan: Plan
    device: Device
    gpus: int
    rows: int
    step: StepTime
    memory: Memory
    error: float

    @property
    def hours(self) -> float:
        return self.step.total * self.plan.steps / 3600

    @property
    def dollars(self) -> float:
        return self.hours * self.gpus * self.device.price

    @property
    def tokens_per_second(self) -> float:
        return self.plan.batch_tokens / self.step.total

    @property
    def mfu(self) -> float:
        """Model FLOP/s over the bf16 peak of all devices."""
        return self.tokens_per_second * self.plan.flops_per_token / (self.device.bf16 * self.gpus)

    @property
    def fits(self) -> bool:
        return self.rows > 0 and self.memory.total <= self.device.memory


def estimate(
    plan: Plan,
    device: Device,
    gpus: int,
    rows: int = 0,
    fp8: bool = True,
    price: float | None = None,
    rates: Rates | None = None,
) -> Estimate:
    """Project a plan onto hardware; `rows = 0` takes the largest micro-batch that fits."""
    if gpus < 1:
        raise ChatlibError(f"gpus={gpus} cannot be; use 1 or more.")
    rates = rates or Rates()
    device = device if price is None else replace(device, price=price)
    fitted = rows or fitting_rows(plan.config, 0.94 * device.memory, plan.batch_tokens, gpus)
    return Estimate(
        plan=plan,
        device=device,
        gpus=gpus,
        rows=fitted,
        step=step_time(plan.config, plan.batch_tokens, device, gpus, max(fitted, 1), fp8, rates),
        memory=memory(plan.config, max(fitted, 1), gpus),
        error=rates.relative_error,
    )


def describe(scale: Scale, device_name: str | None = None, gpus: int | None = None) -> str:
    """What a scale comes to, in words and, where it has GPUs, projected onto devices."""
    plan = make_plan(scale)
    shape, count = plan.config, plan.parameters
    lines = [
        f"Scale {scale.name}: depth {shape.n_layer}, width {shape.n_embd}, {shape.n_head} heads of "
        f"{shape.head_dim}, context {shape.sequence_len}, vocabulary {shape.vocab_size:,}",
        f"  parameters {count.total / 1e6:,.2f}M, of which {count.scaling / 1e6:,.2f}M count for "
        "scaling",
        f"  tokens     {plan.tokens / 1e6:,.1f}M = {plan.steps:,} steps of {plan.batch_tokens:,}",
        f"  compute    {plan.flops:.2e} FLOP ({plan.flops_per_token:.3e} a token)",
    ]
    if scale.train_tokens_slow:
        slow = make_plan(scale, slow=True)
        lines.append(
            f"             on a CPU without native bfloat16: {slow.tokens / 1e6:,.1f}M tokens, "
            f"{slow.steps:,} steps"
        )
    gpus = gpus or scale.gpus
    if not gpus:
        return "\n".join(lines)
    lines += [
        "",
        "projected, not run:",
        f"  {'device':<12}rows  memory GB  s/step    hours  dollars",
    ]
    for device in [get_device(device_name)] if device_name else DEVICES.values():
        guess = estimate(plan, device, gpus)
        if not guess.fits:
            lines.append(f"  {gpus} x {device.name:<9} does not fit; use a smaller depth")
            continue
        low, high = guess.hours * (1 - guess.error), guess.hours * (1 + guess.error)
        lines.append(
            f"  {gpus} x {device.name:<9}{guess.rows:>3}  {guess.memory.total / GB:>9.1f}  "
            f"{guess.step.total:>6.3f}  {low:.2f}-{high:.2f}  {guess.dollars:>7.0f}"
        )
    return "\n".join(lines)
