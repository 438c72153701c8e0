"""From a corpus to a base model: train the tokenizer, then predict the next token."""

import sys
import time
from contextlib import nullcontext
from dataclasses import asdict

import torch

from chatlib import checkpoint
from chatlib.data.loader import BestFitLoader
from chatlib.data.sources import Source, open_source
from chatlib.distributed import Distributed, setup
from chatlib.engine import fast_engine
from chatlib.errors import ChatlibError
from chatlib.evaluation import bits_per_byte, document_batches
from chatlib.model import GPT, GPTConfig
from chatlib.optim import MuonAdamW, OptimConfig, build_optimizer
from chatlib.planner import fitting_rows
from chatlib.precision import compute_dtype, is_slow, multiplies_float8, use_float8
from chatlib.runs import Run
from chatlib.scaling import Plan, Scale, get_scale, make_plan
from chatlib.tokenizer import Tokenizer
from chatlib.training import Job, Schedule, train


def open_run(name: str | None, scale_name: str | None, settings: dict) -> tuple[Run, Scale]:
    """Find or make a run and the scale it was made with; a run never changes its settings."""
    if name is None and scale_name is None and not settings and Run.names():
        name = Run.latest().name
    known = Run.open(name).manifest if name in Run.names() else {}
    scale = get_scale(
        scale_name or known.get("scale") or "laptop", **(settings or known.get("settings", {}))
    )
    run = Run.create_or_open(name or scale.name, scale.name)
    if run.manifest.setdefault("settings", settings) != settings and settings:
        raise ChatlibError(
            f"Run {run.name!r} was made with {run.manifest['settings'] or 'no settings'}; "
            "choose another run name for other settings."
        )
    run.update_manifest(settings=run.manifest.get("settings", settings), config=asdict(scale))
    return run, scale


def train_tokenizer(run: Run, scale: Scale) -> Tokenizer:
    """Train the run's tokenizer on the training split of its corpus, unless it has one."""
    if run.tokenizer_path.exists():
        print(f"Run {run.name!r} has its tokenizer already: {run.tokenizer_path}")
        return Tokenizer.load(run.tokenizer_path)
    began = time.perf_counter()
    source = open_source(scale.corpus)
    tokenizer = Tokenizer.train(
        (text for _, text in source.documents("train")),
        scale.vocab_size,
        max_digits=scale.max_digits,
        max_chars=scale.tokenizer_chars,
        progress=sys.stderr.isatty(),
    )
    tokenizer.save(run.tokenizer_path)
    seconds = round(time.perf_counter() - began, 2)
    about = {"seconds": seconds, "fingerprint": tokenizer.fingerprint}
    run.update_manifest(corpus=source.describe(), tokenizer=about)
    print(f"{tokenizer.vocab_size:,} tokens in {seconds:.1f} s: {run.tokenizer_path}")
    return tokenizer


def load_tokenizer(run: Run) -> Tokenizer:
    """The run's tokenizer; says what to do when there is none."""
    if not run.tokenizer_path.exists():
        raise ChatlibError(
            f"Run {run.name!r} has no tokenizer yet; "
            f"train it with `python -m chatlib tokenizer --run {run.name}`."
        )
    return Tokenizer.load(run.tokenizer_path)


def build_model(config: GPTConfig, device: torch.device, seed: int = 0) -> GPT:
    """A freshly initialized model on `device`, computing in the best type the device has."""
    with device:
        model = GPT(config, compute_dtype(device))
    model.init_weights(seed)
    return model


def load_model(run: Run, stage: str, device: torch.device) -> tuple[GPT, dict]:
    """The model of a finished stage and the metadata stored with it."""
    found = checkpoint.load_model(run.stage_dir(stage))
    model = build_model(GPTConfig.from_dict(found.meta["config"]), device)
    model.load_state_dict(found.model_tensors)
    return model, found.meta


def optimizer_for(model: GPT, plan: Plan, dist: Distributed, rate: float = 1.0) -> MuonAdamW:
    """The optimizer with the plan's learning rates, all multiplied by `rate`."""
    scale = plan.scale
    config = OptimConfig(
        muon_lr=scale.matrix_lr,
        embedding_lr=scale.embedding_lr,
        value_embedding_lr=scale.embedding_lr / 2,
        head_lr=scale.head_lr,
        gate_lr=OptimConfig.gate_lr * rate,
        muon_weight_decay=plan.weight_decay,
        batch_scale=plan.lr_batch_scale * rate,
    )
    return build_optimizer(model, config, dist)


def pretrain(run: Run, scale: Scale) -> dict:
    """Pretrain the run's base model; carries on from its newest checkpoint."""
    with setup() as dist, run.lock("base") if dist.is_main else nullcontext():
        return _pretrain(run, scale, dist)


def _pretrain(run: Run, scale: Scale, dist: Distributed) -> dict:
    tokenizer = load_tokenizer(run)
    source = open_source(scale.corpus)
    slow = is_slow(dist.device)
    plan = make_plan(scale, tokenizer.vocab_size, slow)
    model = build_model(plan.config, dist.device, scale.seed)
    in_8_bits = use_float8(model) if scale.float8 and multiplies_float8(dist.device) else []
    rows, micro_batches = split_batch(plan, dist)
    job = Job(
        run=run,
        stage="base",
        model=model,
        optimizer=optimizer_for(model, plan, dist),
        loader=BestFitLoader(
            source, tokenizer, rows, scale.sequence_len, rank=dist.rank, world_size=dist.world_size,
            micro_batches=micro_batches, device=dist.device,
        ),
        schedule=Schedule(
            plan.steps, scale.warmup_steps, scale.warmdown, scale.final_lr, nearby=scale.nearby
        ),
        micro_batches=micro_batches,
        flops_per_token=plan.flops_per_token,
        checkpoint_every=scale.checkpoint_every,
        evaluate=validation(model, tokenizer, source, scale, dist),
        evaluate_at=looks(plan.steps),
        sample=sampler(model, tokenizer),
        meta={"config": plan.config.to_dict(), "tokenizer": tokenizer.fingerprint},
    )  # fmt: skip
    if dist.is_main:
        announce(plan, slow, dist, rows, micro_batches, len(in_8_bits))
    result = train(job, dist)
    if dist.is_main:
        made = {"flops": plan.flops, "batch_tokens": plan.batch_tokens, "slow": slow}
        run.update_manifest(base=result | made | {"float8_layers": len(in_8_bits)})
    return result


def split_batch(plan: Plan, dist: Distributed) -> tuple[int, int]:
    """Rows of one micro-batch on one device, and micro-batches a step."""
    share, rest = divmod(plan.batch_tokens, dist.world_size * plan.scale.sequence_len)
    if rest or not share:
        raise ChatlibError(
            f"A batch of {plan.batch_tokens} tokens cannot be split over "
            f"{dist.world_size} processes in whole rows of {plan.scale.sequence_len}; "
            "use fewer processes or a larger batch."
        )
    rows = plan.scale.device_batch
    if not rows and dist.device.type == "cuda":
        free, _ = torch.cuda.mem_get_info()
        fp8 = plan.scale.float8 and multiplies_float8(dist.device)
        rows = fitting_rows(plan.config, 0.94 * free, plan.batch_tokens, dist.world_size, fp8)
        if not rows:
            raise ChatlibError(
                f"Depth {plan.scale.depth} does not fit into {free / 1e9:.1f} GB of free memory; "
                "use a smaller depth."
            )
    rows = min(rows or 1, share)
    while share % rows:
        rows -= 1
    return rows, share // rows


def looks(steps: int) -> set[int]:
    """Steps at which to evaluate and sample: close together at first, when most happens."""
    return {round(steps ** (i / 12)) for i in range(13)} | {
        round(steps * i / 8) for i in range(1, 9)
    }


def validation(model: GPT, tokenizer: Tokenizer, source: Source, scale: Scale, dist: Distributed):
    """A function that measures bits per byte on the first documents of the validation split."""
    texts, tokens = [], 0
    for _, text in source.documents("validation"):
        texts.append(text)
        tokens += len(tokenizer.encode(text)) + 1
        if tokens >= scale.eval_tokens:
            break
    batches = list(
        document_batches(tokenizer, texts, scale.sequence_len, max(scale.device_batch, 1))
    )
    mine = batches[dist.rank :: dist.world_size]
    token_bytes = torch.from_numpy(tokenizer.token_bytes()).to(dist.device)
    return lambda: {"val_bpb": bits_per_byte(model, mine, token_bytes)}


def sampler(model: GPT, tokenizer: Tokenizer):
    """A function that lets the model write a few words, always from the same seed."""
    engine = fast_engine(model, tokenizer)

    def sample() -> str:
        (reply,) = engine.generate_batch([[tokenizer.bos]], max_tokens=48, temperature=0.8)
        return tokenizer.decode(reply.tokens)

    return sample


def announce(
    plan: Plan, slow: bool, dist: Distributed, rows: int, micro_batches: int, in_8_bits: int
) -> None:
    """Say what is about to happen."""
    print(
        f"Pretraining {plan.parameters.total / 1e6:.2f}M parameters (depth {plan.config.n_layer}, "
        f"width {plan.config.n_embd}) on {plan.tokens / 1e6:,.2f}M tokens: {plan.steps:,} steps "
        f"of {plan.batch_tokens:,} tokens = {dist.world_size} processes x {micro_batches} "
        f"micro-batches x {rows} rows of {plan.scale.sequence_len}.",
        flush=True,
    )
    if in_8_bits:
        print(f"{in_8_bits} layers multiply in 8 bits; evaluation does not.", flush=True)
    elif plan.scale.float8:
        print("This device does not multiply in 8 bits: training without them.", flush=True)
    if slow and plan.scale.train_tokens_slow:
        print(
            "This processor has no native bfloat16: computing in float32, on the smaller budget.",
            flush=True,
        )
