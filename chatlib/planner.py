"""What a run will cost before it is started: memory, seconds a step, hours, dollars.

Every figure here is *projected* from a formula. Its rates are kept apart, so that a reader can put
in her own: most are what such kernels commonly reach, and one, `glue_bytes`, makes the sum fit what
is published of the nanochat reference run (`scaling.RUN_6` on 8xH100, 1.067 s a step).
"""

from dataclasses import dataclass, replace

from chatlib.errors import ChatlibError
from chatlib.loss import CHUNK
from chatlib.model import GPTConfig
from chatlib.scaling import Plan, Scale, count_parameters, flops_per_token, make_plan

GB = 1e9
ERROR = 0.08  # of projected times: the worst miss of five other runs, rounded up
KEPT = (41, 31)  # bytes a token and channel that a compiled layer keeps, in bfloat16 and in 8 bits
OVERHEAD = 1.5 * GB  # context, workspace, fragmentation
TILE = 128  # keys that a kernel of attention takes together


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
    """How much of a peak each kind of work reaches; `glue_bytes` is fitted to the known step."""

    fp8_gemm: float = 0.54  # of the fp8 peak
    bf16_gemm: float = 0.68  # of the bf16 peak
    attention: float = 0.37  # of the bf16 peak: forward and backward together
    muon: float = 0.50  # of the bf16 peak
    memory: float = 0.80  # of the memory's bandwidth
    glue_bytes: float = 166.0  # a token, layer and channel: norms, rotary, relu², casts
    logit_bytes: float = 16.0  # a token and vocabulary entry: softcap and cross-entropy
    accumulate_bytes: float = 12.0  # a parameter and micro-batch: cast, accumulate
    data_seconds: float = 0.0015


RATES = Rates()


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
    c, kv = config.n_embd, config.n_kv_head * config.head_dim
    shapes = [(c, c), (kv, c), (kv, c), (c, c), (c, 4 * c), (c, 4 * c)]
    return config.n_layer * sum(5 * (4 * m * m * n + 2 * m**3) for m, n in shapes)


def bytes_each_way(config: GPTConfig, gpus: int) -> float:
    """What each device sends to share gradients, and again to share weights: all in float32."""
    return 4 * count_parameters(config).total * (gpus - 1) / gpus


def step_time(
    config: GPTConfig,
    batch_tokens: int,
    device: Device,
    gpus: int,
    rows: int,
    fp8: bool,
    rates: Rates = RATES,
) -> StepTime:
    """Seconds a step of `batch_tokens` over all devices, in micro-batches of `rows` rows each.

    `fp8`: multiply in 8 bits where the device can. Nothing overlaps in this model.
    """
    count = count_parameters(config)
    tokens = batch_tokens / gpus
    micro_batches = max(tokens / (rows * config.sequence_len), 1)
    dense = 6 * count.scaling
    gemm = device.fp8 * rates.fp8_gemm if fp8 and device.fp8 else device.bf16 * rates.bf16_gemm
    moved = device.bandwidth * rates.memory
    return StepTime(
        gemm=tokens * dense / gemm,
        attention=tokens * (flops_per_token(config) - dense) / (device.bf16 * rates.attention),
        logits=tokens * config.padded_vocab_size * rates.logit_bytes / moved,
        glue=tokens * config.n_layer * config.n_embd * rates.glue_bytes / moved,
        accumulate=micro_batches * count.total * rates.accumulate_bytes / moved,
        optimizer=muon_flops(config) / gpus / (device.bf16 * rates.muon),
        communication=2 * bytes_each_way(config, gpus) / device.link,
        data=rates.data_seconds,
    )


def keys_met(config: GPTConfig, reach: float = 1.0) -> float:
    """Keys that a query meets, on average over a row and summed over the layers, when windows are
    cut to `reach`: those that it sees, and half a tile at each end of them."""
    T, met = config.sequence_len, 0.0
    for window in config.windows():
        window = min(int(reach * window), T)
        met += window - window**2 / (2 * T) + TILE / 2 * (1 + (window < T))
    return met


def attention_work(plan: Plan) -> float:
    """Attention's work in the mean step of a run, over that with whole windows all along."""
    whole, half, quarter = (keys_met(plan.config, reach) for reach in (1.0, 0.5, 0.25))
    return 1 + plan.scale.nearby * ((half + quarter) / 2 / whole - 1)


@dataclass(frozen=True)
class Memory:
    """Bytes on each device while it trains."""

    weights: float
    gradients: float
    optimizer: float
    activations: float
    logits: float
    overhead: float = OVERHEAD

    @property
    def total(self) -> float:
        return sum(vars(self).values())


def memory(config: GPTConfig, rows: int, gpus: int = 1, fp8: bool = False) -> Memory:
    """Bytes that each of `gpus` GPUs needs with `rows` rows in a micro-batch.

    Weights and gradients are float32, and what is multiplied has a copy in bfloat16, as activations
    are; with `fp8` the inputs of products are kept in 8 bits. AdamW keeps two moments of a number,
    Muon one; they are spread over the devices. The loss holds at most one chunk of logits, in
    bfloat16 and twice in float32.
    """
    count = count_parameters(config)
    tokens = rows * config.sequence_len
    return Memory(
        weights=4 * count.total + 2 * count.scaling,
        gradients=4 * count.total,
        optimizer=4 * (2 * count.total - count.matrices) / gpus,
        activations=KEPT[fp8] * tokens * config.n_layer * config.n_embd,
        logits=10 * min(tokens * config.padded_vocab_size, CHUNK[True]),
    )


def fitting_rows(
    config: GPTConfig, free_bytes: float, batch_tokens: int, gpus: int = 1, fp8: bool = False
) -> int:
    """The largest power of two of rows that fits and divides a device's share; 0 if none does."""
    share = batch_tokens // gpus // config.sequence_len
    powers = [2**i for i in range(share.bit_length()) if share % 2**i == 0]
    return max((r for r in powers if memory(config, r, gpus, fp8).total <= free_bytes), default=0)


@dataclass(frozen=True)
class Estimate:
    """A run on given hardware, projected; `step` is its mean step. Times may be off by ERROR."""

    plan: Plan
    device: Device
    gpus: int
    rows: int
    fp8: bool  # whether products are in 8 bits; else they are in bfloat16
    step: StepTime
    memory: Memory

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
        """Model FLOP/s, whole windows counted, over the bf16 peak of all devices."""
        return self.tokens_per_second * self.plan.flops_per_token / (self.device.bf16 * self.gpus)

    @property
    def fits(self) -> bool:
        return self.rows > 0 and self.memory.total <= self.device.memory


def estimate(
    plan: Plan,
    device: Device,
    gpus: int,
    rows: int = 0,
    fp8: bool | None = None,
    price: float | None = None,
    rates: Rates = RATES,
) -> Estimate:
    """Project a plan onto hardware, in 8 bits where the trainer would use them, or as `fp8` asks.

    `rows = 0` takes the largest micro-batch that fits.
    """
    if gpus < 1:
        raise ChatlibError(f"gpus={gpus} cannot be; use 1 or more.")
    device = device if price is None else replace(device, price=price)
    config, batch = plan.config, plan.batch_tokens
    fp8 = bool(device.fp8 and (plan.scale.float8 if fp8 is None else fp8))
    rows = rows or fitting_rows(config, 0.94 * device.memory, batch, gpus, fp8)
    some = max(rows, 1)  # what does not fit is projected as if one row did
    step = step_time(config, batch, device, gpus, some, fp8, rates)
    step = replace(step, attention=step.attention * attention_work(plan))
    return Estimate(plan, device, gpus, rows, fp8, step, memory(config, some, gpus, fp8))


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
            f"{slow.steps:,} steps, and {scale.sft_conversations_slow:,} conversations for SFT"
        )
    gpus = gpus or scale.gpus
    if gpus:
        lines += ["", "projected, not run, in 8 bits (fp8) or bfloat16 (bf16), as it would train:"]
        lines.append(f"  {'device':<14}in    rows  memory GB  s/step  hours        dollars")
        devices = [get_device(device_name)] if device_name else DEVICES.values()
        lines += [_projected(estimate(plan, device, gpus)) for device in devices]
    return "\n".join(lines)


def _projected(guess: Estimate) -> str:
    name = f"  {guess.gpus} x {guess.device.name:<10}"
    if not guess.fits:
        return f"{name}does not fit; use a smaller depth"
    hours = f"{guess.hours * (1 - ERROR):.2f}-{guess.hours * (1 + ERROR):.2f}"
    return (
        f"{name}{'fp8' if guess.fp8 else 'bf16':<4}  {guess.rows:>4}  "
        f"{guess.memory.total / GB:>9.1f}  {guess.step.total:>6.3f}  {hours:<11}  "
        f"{guess.dollars:>7.0f}"
    )
