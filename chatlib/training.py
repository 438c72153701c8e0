"""The one loop: batches in, a better model out. Pretraining and fine-tuning share it."""

import math
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta

import torch
from tqdm import tqdm

from chatlib import checkpoint
from chatlib.distributed import Distributed
from chatlib.errors import ChatlibError
from chatlib.model import GPT
from chatlib.native import find_compiler
from chatlib.planner import DEVICES
from chatlib.precision import compute_dtype
from chatlib.runs import Metrics, Run


@dataclass(frozen=True)
class Schedule:
    """Learning rate, momentum, weight decay and attention's reach as functions of the step.

    The rate warms up linearly, stays flat, then falls linearly to `final_lr` over the last
    `warmdown` of the steps. Muon's momentum rises to its peak and eases off while the rate falls;
    weight decay follows a half cosine to zero. Over the first `nearby` of the steps attention sees
    a quarter of its windows, then a half.
    """

    steps: int
    warmup: int = 0
    warmdown: float = 0.5
    final_lr: float = 0.0
    momentum_ramp: int = 400
    nearby: float = 0.0

    def lr(self, step: int) -> float:
        falling = round(self.warmdown * self.steps)
        if step < self.warmup:
            return (step + 1) / self.warmup
        if step < self.steps - falling:
            return 1.0
        left = (self.steps - step) / falling
        return left + (1 - left) * self.final_lr

    def momentum(self, step: int) -> float:
        falling = round(self.warmdown * self.steps)
        rising = 0.85 + 0.12 * min(step / self.momentum_ramp, 1.0)
        if step < self.steps - falling:
            return rising
        return rising + (0.90 - rising) * (step - self.steps + falling) / falling

    def decay(self, step: int) -> float:
        return 0.5 * (1 + math.cos(math.pi * step / self.steps))

    def reach(self, step: int) -> float:
        growing = self.nearby * self.steps
        return 0.25 if step < growing / 2 else 0.5 if step < growing else 1.0


@dataclass
class Job:
    """All that the loop needs to know: what to train, on what, for how long, and what to look at
    meanwhile."""

    run: Run
    stage: str
    model: GPT
    optimizer: object
    loader: object  # yields (inputs, targets) or (inputs, targets, weights); remembers its place
    schedule: Schedule
    micro_batches: int  # per step and process
    flops_per_token: float
    checkpoint_every: int
    evaluate: Callable[[], dict[str, float]] | None = None
    evaluate_at: set[int] = field(default_factory=set)  # steps done
    sample: Callable[[], str] | None = None
    stats: Callable[[], dict[str, float]] | None = None  # more to log each step
    meta: dict = field(default_factory=dict)  # stored with every checkpoint
    compile: bool = True


def compiled(model: GPT) -> Callable:
    """The model compiled by torch, which keeps the result for the next process; as it is where that
    cannot be done."""
    if os.environ.get("CHATLIB_COMPILE", "1") == "0":
        return model
    if problem := why_not_compiled(next(model.parameters()).device):
        print(f"{problem}: training runs uncompiled, about half as fast.", flush=True)
        return model
    return torch.compile(model, dynamic=False)


def why_not_compiled(device: torch.device) -> str:
    """What keeps torch from compiling here, tried on the smallest function; "" if nothing does."""
    if device.type == "cpu" and not find_compiler("cl"):
        return "No C++ compiler found"
    from torch._inductor import config  # slow to import

    if not shutil.which("openssl"):  # torch calls it to tell headers that it compiles once apart
        config.cpp_cache_precompile_headers = False
    try:
        torch.compile(lambda x: x + 1)(torch.ones(8, device=device))
    except Exception as error:  # headers missing, a compiler too old: whatever it is, go on without
        lines = str(error).splitlines() or [repr(error)]
        said = next((line for line in lines if "error:" in line), lines[0])
        return f"torch.compile does not work here ({said.split('error:')[-1].strip()})"
    return ""


def train(job: Job, dist: Distributed) -> dict:
    """Run the loop to its last step, from the newest checkpoint if there is one.

    Each step: gather the micro-batches, count their targets over all processes, accumulate
    gradients of the summed loss divided by that count, update. So one process with many
    micro-batches and many processes with few compute the same step, and rows with few targets weigh
    no more than their targets.
    """
    metrics = Metrics(job.run.metrics_path(job.stage))
    start, spent = _resume(job, dist)
    if dist.is_main:
        metrics.truncate_after(start)
    forward = compiled(job.model) if job.compile else job.model
    meter, stop = Meter(job, dist, start, spent), _Interrupt()
    batches, steps = iter(job.loader), job.schedule.steps
    try:
        if start == 0:
            _look(job, dist, metrics, 0, meter)
        for step in range(start, steps):
            if job.model.set_reach(job.schedule.reach(step)):
                meter.clock = None  # compiles again; not counted, as in the first step
            loss, norm, tokens = training_step(job, forward, batches, step, dist)
            meter.step(step + 1, loss, norm, tokens)
            if dist.is_main:
                row = {"loss": loss, "grad_norm": norm, "lr": job.schedule.lr(step)}
                metrics.log(step + 1, **row, **meter.readings, **(job.stats() if job.stats else {}))
            if not math.isfinite(loss):
                raise ChatlibError(
                    f"The loss became {loss} at step {step + 1}: the run diverged; "
                    "lower the learning rate and start again under another run name."
                )
            done, stopped = step + 1 == steps, stop.agreed(dist)
            if step + 1 in job.evaluate_at or done:
                _look(job, dist, metrics, step + 1, meter)
            if done or stopped or (step + 1) % job.checkpoint_every == 0:
                _save(job, dist, step + 1, meter)
            if stopped and not done:
                raise KeyboardInterrupt(
                    f"Stopped after step {step + 1}; the same command carries on from there."
                )
    finally:
        meter.close()
        stop.restore()
        job.loader.close()  # a thread that still reads when Python ends can abort the process
    return {"steps": steps} | meter.readings


def training_step(
    job: Job, forward, batches, step: int, dist: Distributed
) -> tuple[float, float, int]:
    """One update. Returns the mean loss in nats, the gradient's norm, and the tokens read by all
    processes."""
    micro = [next(batches) for _ in range(job.micro_batches)]
    count = torch.stack([(targets >= 0).sum() for _, targets, *_ in micro]).sum().float()
    if dist.world_size > 1:
        torch.distributed.all_reduce(count)
    total = torch.zeros((), device=count.device)
    for inputs, targets, *weights in micro:
        if weights:
            loss = (forward(inputs, targets, reduction="none") * weights[0]).sum() / count
        else:
            loss = forward(inputs, targets, reduction="sum") / count
        (loss * dist.world_size).backward()  # the optimizer averages gradients over processes
        total += loss.detach()
    if dist.world_size > 1:
        torch.distributed.all_reduce(total)
    norm = gradient_norm(job.model)
    schedule = job.schedule
    job.optimizer.set_schedule(
        lr_scale=schedule.lr(step),
        momentum=schedule.momentum(step),
        weight_decay_scale=schedule.decay(step),
    )
    job.optimizer.step()
    job.optimizer.zero_grad()
    tokens = sum(inputs.numel() for inputs, *_ in micro) * dist.world_size
    return total.item(), norm, tokens


def gradient_norm(model: GPT) -> float:
    """The length of this process's gradient, all parameters taken as one vector."""
    norms = torch._foreach_norm([p.grad for p in model.parameters() if p.grad is not None])
    return torch.linalg.vector_norm(torch.stack([n.float() for n in norms])).item()


def peak_flops(device: torch.device) -> float:
    """Operations a second: of a GPU by its data sheet (0 if unknown), of a CPU as measured now."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        return next((d.bf16 for d in DEVICES.values() if d.name in name), 0.0)
    x = torch.ones(512, 512, dtype=compute_dtype(device))
    x @ x
    began = time.perf_counter()
    for _ in range(8):
        x @ x
    return 8 * 2 * 512**3 / (time.perf_counter() - began)


class Meter:
    """Tokens, seconds and the line that tells how a run is doing."""

    def __init__(self, job: Job, dist: Distributed, start: int, spent: dict):
        self.tokens = spent.get("tokens", 0)
        self.seconds = spent.get("seconds", 0.0)
        self.rate = spent.get("tokens_per_s", 0.0)
        self.most = dist.world_size * peak_flops(dist.device) / job.flops_per_token  # tokens/s
        self.steps = job.schedule.steps
        self.loud = dist.is_main
        self.live = sys.stdout.isatty()
        self.said = 0.0
        self.clock = None  # starts after the first step, which compiles
        self.bar = tqdm(
            total=self.steps, initial=start, desc=job.stage, disable=not (self.loud and self.live)
        )

    @property
    def readings(self) -> dict[str, float]:
        """What a row of metrics says besides the loss; MFU where the peak is known."""
        mfu = {"mfu": self.rate / self.most} if self.most else {}
        return {"tokens": self.tokens, "seconds": self.seconds, "tokens_per_s": self.rate} | mfu

    def step(self, step: int, loss: float, norm: float, tokens: int) -> None:
        now = time.perf_counter()
        if self.clock is not None:
            took = now - self.clock
            self.seconds += took
            rate = tokens / took
            self.rate = rate if self.rate == 0 else 0.95 * self.rate + 0.05 * rate
        self.clock = now
        self.tokens += tokens
        gauges = f"loss {loss:.4f}  norm {norm:.2f}"
        if self.rate:
            gauges += f"  {self.rate:,.0f} tok/s"
        if self.rate and self.most:
            gauges += f"  MFU {self.rate / self.most:.0%}"
        self.bar.set_postfix_str(gauges, refresh=False)
        self.bar.update()
        if self.loud and not self.live and (now - self.said > 10 or step == self.steps):
            self.said = now
            if self.rate:
                left = (self.steps - step) * tokens / self.rate
                gauges += f"  ETA {timedelta(seconds=round(left))}"
            print(f"step {step:>5}/{self.steps}  {gauges}", flush=True)

    def pause(self) -> None:
        """Time spent looking is not time spent training."""
        self.clock = None if self.clock is None else time.perf_counter()

    def say(self, line: str) -> None:
        if self.loud:
            self.bar.clear()
            print(line, flush=True)

    def close(self) -> None:
        self.bar.close()


def _look(job: Job, dist: Distributed, metrics: Metrics, step: int, meter: Meter) -> None:
    """Evaluate on every process, sample on the first, and write both down."""
    row = job.evaluate() if job.evaluate else {}
    if dist.is_main:
        if job.sample:
            row["sample"] = job.sample()
        metrics.log(step=step, **row)
        if row:
            shown = "  ".join(f"{k} {v:.4f}" for k, v in row.items() if isinstance(v, float))
            meter.say(f"step {step:>5}  {shown}  {row.get('sample', '')!r}")
    meter.pause()


def _save(job: Job, dist: Distributed, step: int, meter: Meter) -> None:
    checkpoint.save(
        job.run.stage_dir(job.stage),
        step,
        model_tensors=job.model.state_dict(),
        optimizer_tensors=job.optimizer.state_dict(),
        rank_meta=job.loader.state_dict(),
        meta=job.meta | {"spent": meter.readings, "schedule": vars(job.schedule)},
        rank=dist.rank,
        world_size=dist.world_size,
    )
    meter.pause()


def _resume(job: Job, dist: Distributed) -> tuple[int, dict]:
    """Put the newest good checkpoint back in place; returns the steps done and what they cost."""
    found = checkpoint.load_latest(job.run.stage_dir(job.stage), dist.rank)
    if found is None:
        return 0, {}
    if found.meta["schedule"] != vars(job.schedule):
        raise ChatlibError(
            f"Run {job.run.name!r} began stage {job.stage!r} with other settings; "
            "use the same ones to carry on, or choose another run name."
        )
    job.model.load_state_dict(found.model_tensors)
    job.optimizer.load_state_dict(found.optimizer_tensors)
    job.loader.load_state_dict(found.rank_meta)
    if dist.is_main and found.step < job.schedule.steps:
        print(f"Carrying on from step {found.step} of {job.schedule.steps}.", flush=True)
    return found.step, found.meta["spent"]


class _Interrupt:
    """Ctrl-C asks the loop to stop after the step it is in; a second Ctrl-C stops at once."""

    def __init__(self):
        self.asked = False
        try:
            self.before = signal.signal(signal.SIGINT, self._ask)
        except ValueError:  # not in the main thread: leave the signal alone
            self.before = None

    def _ask(self, *_):
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    def agreed(self, dist: Distributed) -> bool:
        if dist.world_size == 1:
            return self.asked
        flag = torch.tensor(float(self.asked), device=dist.device)
        torch.distributed.all_reduce(flag)
        return flag.item() > 0

    def restore(self) -> None:
        if self.before is not None:
            signal.signal(signal.SIGINT, self.before)
