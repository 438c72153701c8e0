"""The paths that only a GPU takes: are they right, and how fast are they?

Every path is held against the definition in float64 on the CPU. Speed is that of one micro-batch,
compiled, and of one optimizer step on one card; decoding is held against what the memory can
deliver. Without a GPU the CPU half runs, and the rest is named as skipped.
"""

import argparse
import json
import re
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor

from chatlib import loss, planner
from chatlib.attention import attend
from chatlib.distributed import Distributed
from chatlib.engine import Engine
from chatlib.kv_cache import KVCache
from chatlib.loss import GAIN, IGNORE, SOFTCAP, softcapped_cross_entropy
from chatlib.model import GPT, GPTConfig
from chatlib.optim import OptimConfig, build_optimizer
from chatlib.precision import E4M3, E5M2, Float8Product, compute_dtype, quantize, use_float8
from chatlib.pretraining import build_model
from chatlib.runs import atomic_write, system_info
from chatlib.scaling import RUN_6, Scale, get_scale, make_plan
from chatlib.tokenizer import Tokenizer, split_pattern
from ci._venv import ROOT
from ci.bench_decode import cached

DEPTHS = (12, 20, 22, 24)
ALLOWED = {torch.float32: 1e-4, torch.bfloat16: 3e-2, E5M2: 0.13}  # of one product or sum
MANY = 3  # … and how much more of many after each other
BACKENDS = {  # (device, dtype): what attention can be computed with there
    ("cpu", torch.float32): ("explicit", "blocks", "sdpa"),
    ("cuda", torch.float32): ("explicit", "sdpa", "flex"),
    ("cuda", torch.bfloat16): ("explicit", "sdpa", "flash"),
}
GPU_ONLY = ("attention/flash", "attention/flex", "8-bit products in hardware", "the loss's kernel",
            "training speed", "memory", "decoding against the bandwidth")  # fmt: skip
SMALL = GPTConfig(512, 3, 4, 2, 256, 512, "SL")


def error(found: Tensor | list[Tensor], expected: Tensor | list[Tensor]) -> float:
    """The largest difference, as a share of the largest number expected; the worst of a list."""
    if isinstance(found, Tensor):
        found, expected = [found], [expected]
    pairs = [(f.double().cpu(), e.double().cpu()) for f, e in zip(found, expected, strict=True)]
    errors = torch.stack([(f - e).abs().max() / e.abs().max() for f, e in pairs])
    return float(errors.max())  # nan, if any is


def attention_errors(device: torch.device) -> dict[str, float]:
    """Output and gradients of every backend, with a window and without, beside the definition."""
    found = {}
    for (kind, dtype), backends in BACKENDS.items():
        if kind != device.type:
            continue
        generator = torch.Generator().manual_seed(0)
        shapes = [(2, 256, heads, 64) for heads in (4, 2, 2, 4)]
        q, k, v, weight = (torch.randn(s, generator=generator).to(dtype) for s in shapes)
        for window in (128, -1):
            expected = with_gradients(
                "explicit", window, q.double(), k.double(), v.double(), weight
            )
            for backend in backends:
                parts = (x.to(device) for x in (q, k, v, weight))
                result = with_gradients(backend, window, *parts)
                name = f"attention/{backend}/{dtype}/window {window}".replace("torch.", "")
                found[name] = error(result, expected)
    return found


def with_gradients(backend: str, window: int, q, k, v, weight) -> list[Tensor]:
    q, k, v = (x.detach().requires_grad_() for x in (q, k, v))
    y = attend(q, k, v, window=window, backend=backend)
    (y * weight).sum().backward()
    return [y.detach(), q.grad, k.grad, v.grad]


def float8_error(device: torch.device) -> float:
    """A product of bytes beside the float64 product of the numbers that they stand for."""
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(n, 512, generator=generator) for n in (256, 384))
    x, weight = (a.to(device, compute_dtype(device)) for a in (x, weight))
    a, b = (quantize(part, E4M3).dequantized().double() for part in (x, weight))
    return error(Float8Product.apply(x, weight), a @ b.T)


def loss_error(device: torch.device) -> float:
    """The chunked loss and its gradients beside all logits at once."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(300, 128, generator=generator)
    head = torch.randn(1000, 128, generator=generator)
    targets = torch.randint(-1, 1000, (300,), generator=generator)

    def run(loss: Callable, place: torch.device, dtype: torch.dtype) -> list[Tensor]:
        parts = [p.to(place, dtype).requires_grad_() for p in (x, head)]
        value = loss(*parts, targets.to(place))
        value.backward()
        return [value.detach(), *(p.grad for p in parts)]

    def plain(x: Tensor, head: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(SOFTCAP * torch.tanh(x @ head.T / SOFTCAP), targets, ignore_index=-1)

    def ours(x: Tensor, head: Tensor, targets: Tensor) -> Tensor:
        return softcapped_cross_entropy(x, head, targets, "mean")

    expected = run(plain, torch.device("cpu"), torch.float64)
    return error(run(ours, device, torch.float32), expected)


def kernel_errors() -> dict[str, float]:
    """Nats and slopes of the loss's kernel beside its definition in float64, on odd sizes."""
    from chatlib.fused_loss import fused_nats_and_slopes

    generator = torch.Generator().manual_seed(0)
    raw = 12 * torch.randn(301, 10_001, generator=generator)
    targets, found = torch.randint(-1, 10_001, (301,), generator=generator).cuda(), {}
    for dtype, out in ((torch.float32,) * 2, (torch.bfloat16,) * 2, (torch.bfloat16, E5M2)):
        z, gain = raw.to("cuda", dtype), GAIN if out == E5M2 else 1.0
        capped = (SOFTCAP * torch.tanh(z.double() / SOFTCAP)).requires_grad_()
        expected = F.cross_entropy(capped, targets, ignore_index=IGNORE, reduction="none")
        (slopes,) = torch.autograd.grad(expected.sum(), capped)
        slopes = slopes * (1 - (capped.detach() / SOFTCAP).square())
        nats, ours = fused_nats_and_slopes(z, targets, out, gain, SOFTCAP, IGNORE)
        found[f"loss/kernel/{out}".replace("torch.", "")] = error(
            [nats, ours.float() / gain], [expected, slopes]
        )
    return found


def optimizer_error(device: torch.device) -> float:
    """What two steps change on this device, beside float64 Newton-Schulz steps on the CPU.

    Without weight decay, which is on or off by a sign and so leaps where an update is near zero.
    """
    config = OptimConfig(muon_weight_decay=0.0)

    def change(place: torch.device, dtype: torch.dtype) -> list[Tensor]:
        model = GPT(SMALL)
        model.init_weights()
        model = model.to(place)
        optimizer = build_optimizer(model, config, Distributed(device=place))
        for group in optimizer.groups:
            group.dtype = dtype
        before = [p.detach().clone() for p in model.parameters()]
        generator = torch.Generator().manual_seed(1)
        for _ in range(2):
            for p in model.parameters():
                p.grad = (torch.randn(p.shape, generator=generator) / 100).to(place)
            optimizer.step()
        return [p.detach() - b for p, b in zip(model.parameters(), before, strict=True)]

    expected = change(torch.device("cpu"), torch.float64)
    return error(change(device, compute_dtype(device)), expected)


@torch.no_grad()
def decode_error(device: torch.device) -> float:
    """Scores of a prompt read in two chunks through the cache, beside float64 without one."""
    exact = GPT(SMALL, torch.float64)
    exact.init_weights()
    for i, p in enumerate(exact.parameters()):
        p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(i)))
    model = build_model(SMALL, device)
    model.load_state_dict(exact.state_dict())
    ids = torch.randint(0, 512, (2, 300), generator=torch.Generator().manual_seed(0))
    expected = exact.double()(ids)[:, 200:]
    cache = KVCache(SMALL, 2, 320, device, model.dtype)
    model(ids[:, :200].to(device), cache=cache)
    return error(model(ids[:, 200:].to(device), cache=cache), expected)


def correctness(device: torch.device) -> dict[str, dict]:
    """Every check's relative error and what it may be at most."""
    native, found = compute_dtype(device), {}
    for name, value in attention_errors(device).items():
        found[name] = (value, ALLOWED[torch.bfloat16 if "bfloat16" in name else torch.float32])
    found["loss"] = (loss_error(device), ALLOWED[torch.float32])
    for name, value in kernel_errors().items() if loss.fuses(device, False) else ():
        found[name] = (value, ALLOWED[getattr(torch, name.split("/")[-1])])
    found["8-bit product"] = (float8_error(device), ALLOWED[native])
    found["optimizer"] = (optimizer_error(device), MANY * ALLOWED[native])
    found["decoding"] = (decode_error(device), MANY * ALLOWED[native])
    return {name: {"error": e, "allowed": a, "right": e <= a} for name, (e, a) in found.items()}


def seconds(work: Callable[[], object], rounds: int = 20) -> dict[str, float]:
    """Median, least and most of `rounds` calls, by the device's own clock."""
    for _ in range(3):
        work()
    times = []
    for _ in range(rounds):
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        stop.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(stop) / 1000)
    times.sort()
    return {"median": times[rounds // 2], "least": times[0], "most": times[-1]}


def this_device() -> planner.Device:
    """The figures of the card in this machine, an H100's where it is not known."""
    name = torch.cuda.get_device_name()
    return next((d for key, d in planner.DEVICES.items() if key in name), planner.DEVICES["H100"])


def training(scale: Scale, float8: bool) -> dict:
    """One micro-batch and one optimizer step of this scale: seconds, tokens/s, MFU, memory."""
    plan, device = make_plan(scale), this_device()
    free = min(0.94 * torch.cuda.mem_get_info()[0], 80e9)  # what an H100 could hold
    rows = min(planner.fitting_rows(plan.config, free, plan.batch_tokens, 1, float8), 32)
    torch.cuda.reset_peak_memory_stats()
    model = build_model(plan.config, torch.device("cuda"))
    if float8:
        use_float8(model)
    optimizer = build_optimizer(model, OptimConfig(), Distributed(device=torch.device("cuda")))
    forward = torch.compile(model, dynamic=False)
    ids = torch.randint(0, plan.config.vocab_size, (2, rows, plan.config.sequence_len)).cuda()
    micro = seconds(lambda: forward(ids[0], ids[1]).backward())
    optimize = seconds(optimizer.step, rounds=5)
    rate = ids[0].numel() / micro["median"]
    projected = planner.step_time(plan.config, ids[0].numel(), device, 1, rows, float8)
    return {
        "rows": rows,
        "micro_batch_s": micro,
        "optimizer_s": optimize,
        "tokens_per_s": round(rate),
        "mfu": rate * plan.flops_per_token / device.bf16,
        "memory_gb": torch.cuda.max_memory_allocated() / 1e9,
        "projected_micro_batch_s": projected.total - projected.optimizer,
        "projected_memory_gb": planner.memory(plan.config, rows, 1, float8).total / 1e9,
    }


def losses(rows: int = 32) -> dict:
    """The loss of one micro-batch of depth 24, with the kernel and without: seconds, memory."""
    config, found = make_plan(RUN_6).config, {}
    x = torch.randn(rows * config.sequence_len, config.n_embd, device="cuda", dtype=torch.bfloat16)
    head = torch.randn(config.vocab_size, config.n_embd, device="cuda") / config.n_embd**0.5
    targets = torch.randint(0, config.vocab_size, (len(x),), device="cuda")
    x, head = x.requires_grad_(), head.requires_grad_()
    plain, compiled = (
        softcapped_cross_entropy,
        torch.compile(softcapped_cross_entropy, dynamic=False),
    )
    for precision, float8 in (("bf16", False), ("fp8", True)):
        for how, call in (("eager", plain), ("compiled", compiled)):
            for fused in (True, False, False, True):
                name = f"{precision} {how} {'kernel' if fused else 'passes'}"
                torch.cuda.reset_peak_memory_stats()
                with patch.object(loss, "fuses", lambda *_, fused=fused: fused):
                    work = partial(call, x, head, targets, "mean", float8)
                    took = seconds(lambda work=work: work().backward(), rounds=7)
                peak = torch.cuda.max_memory_allocated() / 1e9
                found.setdefault(name, []).append(took | {"memory_gb": peak})
    return found


def decoding(depth: int = 24) -> dict:
    """Batch-1 tokens per second, and the share of a plain copy's bandwidth that they come to."""
    config = make_plan(replace(RUN_6, depth=depth)).config
    model = build_model(config, torch.device("cuda"))
    for p in model.parameters():
        p.data = p.data.to(torch.bfloat16)
    tokens = [bytes([i]) for i in range(256)]
    tokens += [b"%d" % i for i in range(10**6, 10**6 + config.vocab_size - 265)]
    tokenizer = Tokenizer({token: i for i, token in enumerate(tokens)}, split_pattern())
    engine = Engine(model, tokenizer, compile=True)
    engine.stops = set()
    cached(engine, 1, 100)  # compiles
    speed = cached(engine, 1, 100)
    block = torch.empty(2**30, dtype=torch.uint8, device="cuda")
    other = torch.empty_like(block)
    copied = 2 * block.numel() / seconds(lambda: other.copy_(block))["median"]
    weights = 2 * planner.count_parameters(config).scaling  # read once a token
    return {
        "tokens_per_s": speed,
        "bytes_per_token": weights,
        "copy_bytes_per_s": copied,
        "share_of_bandwidth": speed * weights / copied,
    }


def gpu_half(depths: list[int]) -> dict:
    """Everything that needs a GPU; what fails is noted and does not stop the rest."""
    scales = {f"d{depth}": replace(RUN_6, depth=depth) for depth in depths}
    scales["node"] = get_scale("node")
    work = {
        f"{name} {'fp8' if float8 else 'bf16'}": partial(training, scale, float8)
        for name, scale in scales.items()
        for float8 in (False, True)
    }
    extra = {"loss d24": losses, "decoding d24, batch 1": decoding}
    found = {}
    for name, measure in (work | extra).items():
        torch.cuda.empty_cache()
        torch._dynamo.reset()
        try:
            found[name] = measure()
        except Exception as problem:  # a missing kernel must not cost the other figures
            found[name] = {"failed": f"{type(problem).__name__}: {problem}".splitlines()[0]}
        print(f"{name:<24}{json.dumps(found[name])}", flush=True)
    return found


def main(argv: list[str]) -> int:
    """Print tables, then JSON; 1 if a path is wrong."""
    parser = argparse.ArgumentParser(prog="python -m ci.bench gpu", description=__doc__)
    parser.add_argument("--depth", type=int, action="append", help=f"default: {DEPTHS}")
    parser.add_argument("--save", action="store_true", help="keep the result in book/data/")
    args = parser.parse_args(argv)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    result = {"system": system_info(), "date": time.strftime("%Y-%m-%d"), "device": device.type}
    result["correctness"] = correctness(device)
    print(f"{'path':<46}{'error':>9}{'allowed':>9}")
    for name, row in result["correctness"].items():
        verdict = "" if row["right"] else "  WRONG"
        print(f"{name:<46}{row['error']:>9.1e}{row['allowed']:>9.0e}{verdict}")
    if device.type == "cuda":
        result["measured"] = gpu_half(args.depth or list(DEPTHS))
    else:
        result["skipped"] = list(GPU_ONLY)
        print(f"No GPU here; skipped: {', '.join(GPU_ONLY)}.")
    if args.save:
        name = re.sub(r"\W+", "_", result["system"]["gpu"] or "no gpu").strip("_").lower()
        path = ROOT / "book" / "data" / f"bench_{name}.json"
        atomic_write(path, json.dumps(result, indent=1) + "\n")
        print(f"saved as {path.relative_to(ROOT)}")
    print(json.dumps(result))
    return 0 if all(row["right"] for row in result["correctness"].values()) else 1
