"""Muon for the matrices, AdamW for the rest, each process keeping its share of the state."""

import math
from dataclasses import dataclass

import torch
import torch.distributed as process_group
from torch import Tensor, nn

from chatlib.distributed import Distributed
from chatlib.errors import ChatlibError
from chatlib.model import GPT
from chatlib.precision import compute_dtype

# Five polynomials a·x + b·x³ + c·x⁵ that push singular values toward 1 (arXiv 2505.16932).
POLAR_EXPRESS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)
SMALL = 1024  # tensors with fewer elements are not worth sharding
ADAM_EPS = 1e-10


@dataclass(frozen=True)
class OptimConfig:
    """Learning rates at width 768 and a batch of 2^19 tokens; `batch_scale` is √(batch / 2^19)."""

    head_lr: float = 0.008
    embedding_lr: float = 0.3
    value_embedding_lr: float = 0.15
    residual_scale_lr: float = 0.005
    embedding_scale_lr: float = 0.5
    gate_lr: float = 0.2  # smear and backout; not scaled
    muon_lr: float = 0.02
    muon_weight_decay: float = 0.28
    batch_scale: float = 1.0


def orthogonalize(x: Tensor, coefficients=POLAR_EXPRESS) -> Tensor:
    """Nearly the nearest orthogonal matrix: every singular value of x (K, m, n) moves to ~1."""
    wide = x.size(-2) <= x.size(-1)
    x = x if wide else x.mT
    x = x / (1.01 * x.norm(dim=(-2, -1), keepdim=True) + 1e-6)
    for a, b, c in coefficients:
        gram = x @ x.mT  # the small side: (K, min, min)
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if wide else x.mT


def _scale_to(x: Tensor, size: Tensor | float) -> Tensor:
    """x (K, m, n) with the Frobenius norm of each matrix set to `size`; zero stays zero."""
    return x * (size / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-10))


def muon_direction(grad: Tensor, momentum: Tensor, second: Tensor, mu: Tensor, dtype: torch.dtype):
    """Where Muon steps for gradients (K, m, n); updates the two buffers in place."""
    rows, cols = grad.shape[-2:]
    momentum.lerp_(grad, 1 - mu)
    x = grad.lerp(momentum, mu)  # Nesterov: look a step ahead
    # MuonEq: all rows equally long (arXiv 2603.28254).
    length = x.norm(dim=(-2, -1), keepdim=True) / math.sqrt(rows)
    x = x * (length / x.norm(dim=-1, keepdim=True).clamp(min=1e-10))
    x = orthogonalize(x.to(dtype)).to(grad.dtype)
    # Muon+: the norm an orthogonal matrix would have (arXiv 2602.21545).
    size = math.sqrt(min(rows, cols))
    x = _scale_to(x, size)
    # NorMuon: even out rows (or columns) that move more than others (arXiv 2510.05491).
    second.lerp_(x.square().mean(dim=-1 if rows >= cols else -2, keepdim=True), 1 - 0.9)
    norm = x.norm(dim=(-2, -1), keepdim=True)
    return _scale_to(x * second.clamp(min=1e-10).rsqrt(), norm)


def muon_update(p, grad, momentum, second, lr, mu, weight_decay, dtype) -> None:
    """One Muon step on matrices p (K, m, n), with decay only where it agrees with the step."""
    x = muon_direction(grad, momentum, second, mu, dtype)
    p.sub_(lr * x + lr * weight_decay * p * (x * p >= 0))


def adamw_update(p, grad, mean, square, step, lr, beta1, beta2, weight_decay) -> None:
    """One AdamW step (arXiv 1711.05101) on p (...), in place."""
    mean.lerp_(grad, 1 - beta1)
    square.lerp_(grad.square(), 1 - beta2)
    corrected = (square / (1 - beta2**step)).sqrt()
    p.mul_(1 - lr * weight_decay)
    p.sub_(lr / (1 - beta1**step) * mean / (corrected + ADAM_EPS))


class Group:
    """A slab of rows updated together, shared out evenly over the processes.

    A slab is one AdamW tensor (its rows) or all Muon matrices of one shape (each a row). Process r
    owns rows `start` to `stop`, keeps their state and updates them; `part` rows travel per process,
    the last ones padded with zeros. A slab that is not `sharded` is owned whole by everybody.
    """

    def __init__(self, name: str, rows: int, dist: Distributed, sharded: bool) -> None:
        self.name, self.rows, self.dist, self.sharded = name, rows, dist, sharded
        self.part = math.ceil(rows / dist.world_size) if sharded else rows
        first = self.part * dist.rank if sharded else 0
        self.start, self.stop = min(rows, first), min(rows, first + self.part)
        self.state: dict[str, Tensor] = {}
        self.work = None  # the transfer under way
        self.bytes_sent = 0  # by each process in the last step, if its peers form a ring

    def _padded(self, x: Tensor, rows: int) -> Tensor:
        if len(x) == rows:
            return x.contiguous()
        return torch.cat((x, x.new_zeros(rows - len(x), *x.shape[1:])))

    def start_average(self, grad: Tensor) -> None:
        """Begin to average grad (rows, ...) over the processes."""
        self.bytes_sent, world = 0, self.dist.world_size
        if world == 1:
            self.received = grad
        elif not self.sharded:
            self.received = self._padded(grad, self.rows)
            self.work = process_group.all_reduce(self.received, async_op=True)
            self.bytes_sent += 2 * (world - 1) * grad.nbytes // world
        else:
            self.sent = self._padded(grad, self.part * world)
            self.received = self.sent.new_empty(self.part, *grad.shape[1:])
            self.work = process_group.reduce_scatter_single(self.received, self.sent, async_op=True)
            self.bytes_sent += (world - 1) * self.received.nbytes

    def averaged(self) -> Tensor:
        """The averaged gradient of the rows this process owns (stop - start, ...)."""
        if self.work is not None:
            self.work.wait()
            self.work = self.sent = None
        mine = self.received[: self.stop - self.start]
        return mine if self.dist.world_size == 1 else mine / self.dist.world_size

    def start_gather(self, mine: Tensor) -> None:
        """Begin to send the rows this process updated and to receive everybody else's."""
        if self.dist.world_size == 1 or not self.sharded:
            self.received = mine
            return
        self.sent = self._padded(mine, self.part)
        self.received = mine.new_empty(self.part * self.dist.world_size, *mine.shape[1:])
        self.work = process_group.all_gather_single(self.received, self.sent, async_op=True)
        self.bytes_sent += (self.dist.world_size - 1) * self.sent.nbytes

    def gathered(self) -> Tensor:
        """All rows, updated (rows, ...)."""
        if self.work is not None:
            self.work.wait()
            self.work = self.sent = None
        return self.received[: self.rows]


class AdamWGroup(Group):
    """One tensor under AdamW."""

    def __init__(self, name, p: nn.Parameter, lr, betas, weight_decay, dist: Distributed) -> None:
        super().__init__(name, len(p), dist, sharded=p.numel() >= SMALL)
        self.p, self.lr, self.betas, self.weight_decay = p, lr, betas, weight_decay
        self.mine = p.detach()[self.start : self.stop]
        self.state = {"mean": torch.zeros_like(self.mine), "square": torch.zeros_like(self.mine)}

    def reduce(self) -> None:
        self.start_average(self.p.grad if self.p.grad is not None else torch.zeros_like(self.p))

    def update(self, schedule: "Factors") -> None:
        adamw_update(
            self.mine, self.averaged(), self.state["mean"], self.state["square"], schedule.step,
            self.lr * schedule.lr_scale, *self.betas, self.weight_decay,
        )  # fmt: skip
        self.start_gather(self.mine)

    def finish(self) -> None:
        full = self.gathered()
        if full.data_ptr() != self.p.data_ptr():
            self.p.copy_(full)


class MuonGroup(Group):
    """All matrices of one shape under Muon. `params` may each hold several, stacked (`parts`)."""

    def __init__(self, params: list[nn.Parameter], shape, lr, weight_decay, dist) -> None:
        self.params, self.shape = params, shape
        self.matrices = [m for p in params for m in self._split(p, p.detach())]
        name = f"muon.{shape[0]}x{shape[1]}"
        super().__init__(name, len(self.matrices), dist, sharded=True)
        self.lr, self.weight_decay = lr * math.sqrt(max(1, shape[0] / shape[1])), weight_decay
        self.dtype = compute_dtype(params[0].device)
        n, kept = self.stop - self.start, (shape[0], 1) if shape[0] >= shape[1] else (1, shape[1])
        zeros = params[0].new_zeros
        self.state = {"momentum": zeros(n, *shape), "second": zeros(n, *kept)}

    def _split(self, p: nn.Parameter, x: Tensor) -> list[Tensor]:
        return [part for part in x.split(matrix_rows(p)) if part.shape == self.shape]

    def reduce(self) -> None:
        grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in self.params]
        parts = [m for p, g in zip(self.params, grads, strict=True) for m in self._split(p, g)]
        self.start_average(torch.stack(parts))

    def update(self, schedule: "Factors") -> None:
        grad = self.averaged()
        mine = self.matrices[self.start : self.stop]
        mine = torch.stack(mine) if mine else torch.zeros_like(grad)
        muon_update(
            mine, grad, self.state["momentum"], self.state["second"], self.lr * schedule.lr_scale,
            schedule.momentum, self.weight_decay * schedule.weight_decay_scale, self.dtype,
        )  # fmt: skip
        self.start_gather(mine)

    def finish(self) -> None:
        torch._foreach_copy_(self.matrices, list(self.gathered().unbind()))


def matrix_rows(p: nn.Parameter) -> list[int]:
    """The row counts of the matrices stacked in p: most parameters are a single one."""
    return getattr(p, "parts", [len(p)])


@dataclass
class Factors:
    """What changes from step to step: factors on the groups' own settings, and Muon's momentum."""

    lr_scale: float = 1.0
    momentum: float = 0.95
    weight_decay_scale: float = 1.0
    step: int = 0


class MuonAdamW:
    """All groups of a model. Averages gradients over the processes and steps each group once.

    `state_dict` holds this process's rows only, each tensor under "group/kind:start:stop:rows";
    the merged dicts of all processes load at any number of processes.
    """

    def __init__(self, groups: list[Group], model: nn.Module) -> None:
        self.groups, self.params = groups, list(model.parameters())
        self.schedule = Factors()

    def set_schedule(self, lr_scale: float, momentum: float, weight_decay_scale: float) -> None:
        """Factors for the next steps; the last scales Muon's weight decay only."""
        self.schedule.lr_scale = lr_scale
        self.schedule.momentum = momentum
        self.schedule.weight_decay_scale = weight_decay_scale

    @torch.no_grad()
    def step(self) -> None:
        """Update every parameter. Transfers of one group overlap the arithmetic of another."""
        self.schedule.step += 1
        for group in self.groups:
            group.reduce()
        for group in self.groups:
            group.update(self.schedule)
        for group in self.groups:
            group.finish()

    def zero_grad(self) -> None:
        for p in self.params:
            p.grad = None

    @property
    def bytes_sent(self) -> int:
        """What each process sent in the last step, if its peers form a ring."""
        return sum(group.bytes_sent for group in self.groups)

    def state_dict(self) -> dict[str, Tensor]:
        """This process's share of the state, and the step count."""
        state = {"step": torch.tensor(self.schedule.step)}
        for g in self.groups:
            for kind, tensor in g.state.items():
                state[f"{g.name}/{kind}:{g.start}:{g.stop}:{g.rows}"] = tensor
        return state

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take this process's rows out of the merged `state_dict`s of all who saved."""
        pieces: dict[str, list[tuple[int, int, int, Tensor]]] = {}
        for key, tensor in state.items():
            name, *numbers = key.split(":")
            if numbers:
                pieces.setdefault(name, []).append((*map(int, numbers), tensor))
        for g in self.groups:
            for kind, tensor in g.state.items():
                self._fill(tensor, g, f"{g.name}/{kind}", pieces.get(f"{g.name}/{kind}", []))
        self.schedule.step = int(state["step"])

    def _fill(self, mine: Tensor, group: Group, name: str, pieces: list) -> None:
        filled = 0
        for start, stop, rows, tensor in sorted(pieces, key=lambda piece: piece[:3]):
            low, high = max(start, group.start), min(stop, group.stop)
            if rows != group.rows or tensor.shape[1:] != mine.shape[1:]:
                raise ChatlibError(
                    f"The optimizer state {name} is of another model; load one of this shape."
                )
            if low < high:
                mine[low - group.start : high - group.start] = tensor[low - start : high - start]
                filled += high - low
        if filled != group.stop - group.start:
            raise ChatlibError(
                f"The optimizer state {name} is incomplete; load the files of all processes."
            )


def build_optimizer(model: GPT, config: OptimConfig, dist: Distributed) -> MuonAdamW:
    """One AdamW group for each table and scalar, one Muon group for each shape of block matrix."""
    c, b = config, config.batch_scale
    width = (model.config.n_embd / 768) ** -0.5

    def adamw(name: str, lr: float, betas: tuple[float, float], weight_decay: float) -> Group:
        return AdamWGroup(name, model.get_parameter(name), lr, betas, weight_decay, dist)

    groups = [adamw("embedding.weight", c.embedding_lr * width * b, (0.8, 0.995), 0.001)]
    for i in model.value_embeddings:
        name = f"value_embeddings.{i}.weight"
        groups.append(adamw(name, c.value_embedding_lr * width * b, (0.8, 0.995), 0.01))
    groups.append(adamw("head.weight", c.head_lr * width * b, (0.8, 0.96), 0.01))
    groups.append(adamw("residual_scales", c.residual_scale_lr * b, (0.8, 0.95), 0.05))
    groups.append(adamw("embedding_scales", c.embedding_scale_lr * b, (0.96, 0.95), 0.0))
    for name in ("smear_gate.weight", "smear_scale", "backout_scale"):
        groups.append(adamw(name, c.gate_lr, (0.8, 0.95), 0.0))
    by_shape: dict[tuple[int, int], list[nn.Parameter]] = {}
    for p in model.blocks.parameters():
        for rows in dict.fromkeys(matrix_rows(p)):
            by_shape.setdefault((rows, p.size(1)), []).append(p)
    for shape, params in by_shape.items():
        groups.append(MuonGroup(params, shape, c.muon_lr * b, c.muon_weight_decay, dist))
    return MuonAdamW(groups, model)
