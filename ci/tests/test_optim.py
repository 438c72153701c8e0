"""AdamW and Muon against torch's own, the recipe's formulas, and their state on disk."""

import math
from itertools import pairwise

import pytest
import torch

from chatlib.distributed import Distributed
from chatlib.errors import ChatlibError
from chatlib.model import GPT, GPTConfig
from chatlib.optim import (
    AdamWGroup,
    MuonGroup,
    OptimConfig,
    build_optimizer,
    muon_direction,
    orthogonalize,
)

CONFIG = GPTConfig(70, 2, 2, 1, 32, 16)
ALONE = Distributed()


def tensor_of(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def model_of(seed=0) -> GPT:
    model = GPT(CONFIG)
    model.init_weights(seed)
    with torch.no_grad():
        for i, p in enumerate(model.parameters()):
            p += 0.1 * tensor_of(*p.shape, seed=i)
    return model


def train(model, optimizer, steps, first=0):
    for step in range(first, first + steps):
        ids = torch.randint(0, 70, (2, 17), generator=torch.Generator().manual_seed(step))
        model(ids[:, :-1], ids[:, 1:]).backward()
        optimizer.set_schedule(1.0 - 0.05 * step, 0.85 + 0.01 * step, 1.0)
        optimizer.step()
        optimizer.zero_grad()


def values(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def singular(x):
    return torch.linalg.svdvals(x)


def one_group(group, schedule_step=1, **schedule):
    """Step a single group by hand."""
    from chatlib.optim import Factors

    with torch.no_grad():
        group.reduce()
        group.update(Factors(step=schedule_step, **schedule))
        group.finish()


def test_adamw_equals_torch():
    mine = torch.nn.Parameter(tensor_of(50, 40))
    theirs = torch.nn.Parameter(mine.detach().clone())
    group = AdamWGroup("table", mine, 0.03, (0.8, 0.96), 0.1, ALONE)
    reference = torch.optim.AdamW([theirs], lr=0.03, betas=(0.8, 0.96), eps=1e-10, weight_decay=0.1)
    for step in range(30):
        mine.grad = tensor_of(50, 40, seed=step) * 10 ** (step % 5 - 2)
        theirs.grad = mine.grad.clone()
        one_group(group, schedule_step=step + 1)
        reference.step()
    torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=1e-6)


def test_e10_momentum_is_an_average_and_equals_torch_muon():
    """With one set of coefficients and no extras, our pieces make torch's Muon."""
    theirs = torch.nn.Parameter(tensor_of(24, 16))
    mine = theirs.detach().clone()
    reference = torch.optim.Muon([theirs], lr=0.02, momentum=0.9, nesterov=True, weight_decay=0.1)
    momentum = torch.zeros(1, 24, 16)
    for step in range(5):
        grad = tensor_of(24, 16, seed=step)
        theirs.grad = grad.clone()
        reference.step()
        second = torch.zeros(1, 24, 1)
        before = momentum.clone()
        muon_direction(grad[None], momentum, second, 0.9, torch.float32)
        torch.testing.assert_close(momentum, 0.9 * before + 0.1 * grad)
        nesterov = 0.1 * grad + 0.9 * momentum[0]
        x = orthogonalize(nesterov[None].bfloat16(), 5 * [(3.4445, -4.7750, 2.0315)])[0].float()
        mine = mine * (1 - 0.02 * 0.1) - 0.02 * math.sqrt(24 / 16) * x
    torch.testing.assert_close(mine, theirs.detach(), atol=2e-3, rtol=0)


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 40, 8), (2, 8, 40), (1, 1, 5)])
def test_orthogonalize_pushes_singular_values_to_one(shape):
    x = tensor_of(*shape)
    before = singular(x / x.norm(dim=(-2, -1), keepdim=True))
    after = singular(orthogonalize(x))
    assert ((after > 0.8) & (after < 1.2))[before > 0.01].all()
    U, _, V = torch.linalg.svd(x, full_matrices=False)
    assert (orthogonalize(x) - U @ V).norm() < 0.2 * (U @ V).norm()


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 40, 8), (2, 8, 40), (2, 4, 12)])
def test_e12_every_update_has_the_norm_of_an_orthogonal_matrix(shape):
    rows, cols = shape[1:]
    second = torch.zeros(shape[0], rows, 1) if rows >= cols else torch.zeros(shape[0], 1, cols)
    momentum = torch.zeros(shape)
    for step in range(3):
        scale = 10.0 ** (3 * step - 4)
        x = muon_direction(
            scale * tensor_of(*shape, seed=step), momentum, second, 0.9, torch.float32
        )
        want = torch.full((shape[0],), math.sqrt(min(rows, cols)))
        torch.testing.assert_close(x.norm(dim=(-2, -1)), want, rtol=1e-4, atol=0)


def test_normuon_evens_out_rows():
    grad = tensor_of(1, 32, 8) * torch.logspace(-2, 1, 32)[:, None]
    second = torch.zeros(1, 32, 1)
    x = muon_direction(grad, torch.zeros_like(grad), second, 0.9, torch.float32)
    plain = orthogonalize(grad)
    spread = lambda y: y.norm(dim=-1).std() / y.norm(dim=-1).mean()  # noqa: E731
    assert spread(x) < 0.01 < spread(plain)


def test_a_zero_gradient_moves_nothing_and_breaks_nothing():
    grad = torch.zeros(2, 6, 4)
    x = muon_direction(grad, grad.clone(), torch.zeros(2, 6, 1), 0.9, torch.float32)
    assert (x == 0).all()


def test_decay_is_cautious():
    p = torch.nn.Parameter(torch.full((6, 6), 0.5))
    p.grad = tensor_of(6, 6)
    group = MuonGroup([p], (6, 6), 0.01, 0.3, ALONE)
    before = p.detach().clone()
    direction = muon_direction(
        p.grad[None], torch.zeros(1, 6, 6), torch.zeros(1, 6, 1), 0.95, torch.float32
    )[0]
    one_group(group)
    decay = (before - 0.01 * direction - p.detach()) / before
    torch.testing.assert_close(decay, 0.01 * 0.3 * (direction > 0).float(), atol=1e-6, rtol=0)


def test_e11_step_size_grows_with_outputs_over_inputs():
    up, down = (torch.nn.Parameter(torch.zeros(shape)) for shape in ((64, 16), (16, 64)))
    assert MuonGroup([up], (64, 16), 0.02, 0, ALONE).lr == pytest.approx(0.04)
    assert MuonGroup([down], (16, 64), 0.02, 0, ALONE).lr == pytest.approx(0.02)


def test_matrices_stored_as_one_are_orthogonalized_apart():
    stacked = torch.nn.Parameter(torch.zeros(12, 8))
    stacked.parts = [8, 2, 2]
    stacked.grad = tensor_of(12, 8)
    apart = [torch.nn.Parameter(torch.zeros(rows, 8)) for rows in (8, 2, 2)]
    for p, grad in zip(apart, stacked.grad.split([8, 2, 2]), strict=True):
        p.grad = grad.clone()
    for shape, those in (((8, 8), apart[:1]), ((2, 8), apart[1:])):
        one_group(MuonGroup([stacked], shape, 0.02, 0, ALONE))
        one_group(MuonGroup(those, shape, 0.02, 0, ALONE))
    torch.testing.assert_close(stacked.detach(), torch.cat([p.detach() for p in apart]))


def test_e13_tables_remember_small_steps():
    """In bfloat16 the number after 0.8 is 0.8047: steps of 1e-4 would all be lost."""
    p = torch.nn.Parameter(torch.full((40, 40), 0.8))
    group = AdamWGroup("table", p, 1e-4, (0.8, 0.995), 0.0, ALONE)
    for step in range(10):
        p.grad = torch.ones(40, 40)
        one_group(group, schedule_step=step + 1)
    torch.testing.assert_close(p.detach(), torch.full((40, 40), 0.799), atol=1e-5, rtol=0)
    assert GPT(CONFIG, dtype=torch.bfloat16).embedding.weight.dtype == torch.float32


def test_every_parameter_is_in_exactly_one_group():
    model = model_of()
    optimizer = build_optimizer(model, OptimConfig(), ALONE)
    storage = {p.data_ptr(): name for name, p in model.named_parameters()}
    numels = dict.fromkeys(storage.values(), 0)
    starts = sorted(storage)
    for group in optimizer.groups:
        for m in group.matrices if isinstance(group, MuonGroup) else [group.p]:
            owner = max(start for start in starts if start <= m.data_ptr())
            numels[storage[owner]] += m.numel()
    assert numels == {name: p.numel() for name, p in model.named_parameters()}


def test_learning_rates_follow_the_recipe():
    with torch.device("meta"):
        model = GPT(GPTConfig(32768, 4, 4, 4, 192, 64))  # a quarter of the reference width: √4 = 2
    optimizer = build_optimizer(model, OptimConfig(batch_scale=0.5), ALONE)
    lrs = {group.name: group.lr for group in optimizer.groups}
    expected = {
        "embedding.weight": 0.3 * 2 / 2, "value_embeddings.1.weight": 0.15 * 2 / 2,
        "value_embeddings.3.weight": 0.15 * 2 / 2, "head.weight": 0.008 * 2 / 2,
        "residual_scales": 0.0025, "embedding_scales": 0.25, "smear_gate.weight": 0.2,
        "smear_scale": 0.2, "backout_scale": 0.2, "muon.192x192": 0.01, "muon.768x192": 0.02,
        "muon.192x768": 0.01, "muon.4x12": 0.01,
    }  # fmt: skip
    assert lrs == pytest.approx(expected)


def test_schedule_scales_steps_and_decay():
    model = model_of()
    optimizer = build_optimizer(model, OptimConfig(), ALONE)
    before = values(model)
    ids = torch.randint(0, 70, (1, 17))
    model(ids[:, :-1], ids[:, 1:]).backward()
    optimizer.set_schedule(0.0, 0.9, 1.0)
    optimizer.step()
    assert all(torch.equal(before[name], p) for name, p in values(model).items())
    optimizer.set_schedule(1.0, 0.9, 1.0)
    optimizer.step()
    assert not any(torch.equal(before[name], p) for name, p in values(model).items())
    assert optimizer.bytes_sent == 0


def test_training_learns():
    model = model_of()
    optimizer = build_optimizer(model, OptimConfig(), ALONE)
    ids = torch.randint(0, 70, (2, 17), generator=torch.Generator().manual_seed(0))
    losses = []
    for _ in range(25):
        loss = model(ids[:, :-1], ids[:, 1:])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert sum(b < a for a, b in pairwise(losses)) > 15


def test_state_carries_on_exactly():
    model = model_of()
    optimizer = build_optimizer(model, OptimConfig(), ALONE)
    train(model, optimizer, 3)
    saved = {key: tensor.clone() for key, tensor in optimizer.state_dict().items()}
    weights = values(model)
    train(model, optimizer, 2, first=3)
    other = model_of(seed=5)
    other.load_state_dict(weights, strict=False)
    resumed = build_optimizer(other, OptimConfig(), ALONE)
    resumed.load_state_dict(saved)
    train(other, resumed, 2, first=3)
    for name, p in values(other).items():
        assert torch.equal(p, values(model)[name]), name


def test_e23_state_holds_no_learning_rates():
    model = model_of()
    slow = build_optimizer(model, OptimConfig(muon_lr=0.001), ALONE)
    slow.load_state_dict(build_optimizer(model_of(), OptimConfig(), ALONE).state_dict())
    assert {g.lr for g in slow.groups if g.name == "muon.32x32"} == {0.001}


def test_incomplete_or_foreign_state_is_refused():
    optimizer = build_optimizer(model_of(), OptimConfig(), ALONE)
    state = optimizer.state_dict()
    key = next(key for key in state if key.startswith("muon.32x32/momentum"))
    with pytest.raises(ChatlibError, match=r"muon\.32x32/momentum is incomplete"):
        optimizer.load_state_dict({k: v for k, v in state.items() if k != key})
    wider = GPT(GPTConfig(134, 2, 2, 1, 32, 16))
    wider.init_weights(0)
    with pytest.raises(ChatlibError, match="another model"):
        build_optimizer(wider, OptimConfig(), ALONE).load_state_dict(state)
