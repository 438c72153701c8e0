"""The C++ step computes what the model computes, and chooses what `sampling.choose` defines."""

import math
import random
import shutil

import pytest
import torch

from chatlib import native
from chatlib.engine import Batch, Engine, Reply
from chatlib.errors import ChatlibError
from chatlib.kv_cache import KVCache
from chatlib.model import GPT, GPTConfig
from chatlib.precision import Linear
from chatlib.sampling import Sampling, choose
from chatlib.tokenizer import Tokenizer, split_pattern

pytestmark = pytest.mark.skipif(native.find_compiler() is None, reason="no C++ compiler")

SHAPES = {
    "one key head for two": GPTConfig(301, 3, 4, 2, 40, 64),
    "short windows": GPTConfig(384, 4, 2, 2, 64, 512),
    "one layer": GPTConfig(300, 1, 1, 1, 16, 64),
}


@pytest.fixture(autouse=True, scope="module")
def one_home(tmp_path_factory):
    """The step is compiled once for all tests of this file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CHATLIB_HOME", str(tmp_path_factory.mktemp("home")))
        native.load.cache_clear()
        native.load()
        yield
    native.load.cache_clear()


def make(config: GPTConfig, dtype: torch.dtype = torch.float32) -> GPT:
    """A model in which no part is switched off by its first values."""
    model = GPT(config, dtype)
    model.init_weights()
    with torch.no_grad():
        for i, p in enumerate(model.parameters()):
            noise = torch.randn(p.shape, generator=torch.Generator().manual_seed(i))
            p.add_(0.1 * noise)
    return model.eval()


def ids_for(config: GPTConfig, rows: int, length: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, config.vocab_size, (rows, length), generator=generator)


@torch.inference_mode()
def decoded(model: GPT, ids: torch.Tensor, prompts: list[int], int8: bool = False) -> torch.Tensor:
    """Scores after each token past the prompts, row by row of its own length: (steps, B, V)."""
    cache = KVCache(model.config, len(ids), ids.size(1), dtype=torch.float32)
    for row, n in enumerate(prompts):
        own = KVCache(model.config, 1, n, dtype=model.dtype)
        model(ids[row : row + 1, :n], cache=own)
        for mine, theirs in zip(cache.keys + cache.values, own.keys + own.values, strict=True):
            mine[row, :n] = theirs[0]
        cache.previous[row] = own.previous[0]
    step = native.Decoder(model, cache, int8)
    count = ids.size(1) - max(prompts)
    places = [[n + i for n in prompts] for i in range(count)]
    tokens = [[int(ids[row, n]) for row, n in enumerate(place)] for place in places]
    return torch.stack([step(*pair) for pair in zip(tokens, places, strict=True)])


@torch.inference_mode()
def expected(model: GPT, ids: torch.Tensor, prompts: list[int]) -> torch.Tensor:
    scores = model(ids)
    count = ids.size(1) - max(prompts)
    rows = [scores[row, n : n + count] for row, n in enumerate(prompts)]
    return torch.stack(rows, dim=1)


@pytest.mark.parametrize("name", SHAPES)
def test_equals_the_model_without_a_cache(name):
    config = SHAPES[name]
    model, length = make(config), min(config.sequence_len, 300)
    ids, prompts = ids_for(config, 9, length), [length - 12 - i for i in range(9)]
    found, wanted = decoded(model, ids, prompts), expected(model, ids, prompts)
    assert wanted.abs().max() > 1  # scores that say something
    torch.testing.assert_close(found, wanted, atol=2e-4, rtol=0)


def test_a_row_does_not_depend_on_its_neighbors_or_on_threads(monkeypatch):
    config = SHAPES["one key head for two"]
    model, ids = make(config), ids_for(config, 9, 40)
    together = decoded(model, ids, [20] * 9)
    alone = torch.cat([decoded(model, ids[i : i + 1], [20]) for i in range(9)], dim=1)
    assert torch.equal(together, alone)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    monkeypatch.setattr(native, "ROWS_A_THREAD", 1)
    assert torch.equal(together, decoded(model, ids, [20] * 9))


def test_eight_bits_equal_a_model_with_rounded_matrices():
    config = SHAPES["short windows"]
    rounded, ids, prompts = make(config), ids_for(config, 3, 60), [50] * 3
    with torch.no_grad():
        for layer in rounded.modules():
            if isinstance(layer, Linear) and len(layer.weight) > 16:  # gates stay as they are
                whole, scale = native.quantize_rows(layer.weight)
                layer.weight.copy_(whole * scale[:, None])
    found, wanted = decoded(rounded, ids, prompts, int8=True), expected(rounded, ids, prompts)
    torch.testing.assert_close(found, wanted, atol=5e-4, rtol=0)
    exact = expected(make(config), ids, prompts)
    assert (exact - wanted).abs().max() > 0.01  # so rounding is more than that


def test_a_byte_is_off_by_half_a_step_at_most():
    weight = torch.randn(5, 30, generator=torch.Generator().manual_seed(0))
    whole, scale = native.quantize_rows(weight)
    assert whole.dtype == torch.int8 and whole.abs().amax(1).eq(127).all()
    assert ((whole * scale[:, None] - weight).abs() <= scale[:, None] / 2 + 1e-7).all()


def test_a_zero_row_quantizes_to_zero():
    whole, scale = native.quantize_rows(torch.zeros(2, 3))
    assert not whole.any() and scale.isfinite().all()


def decoder(vocab: int) -> native.Decoder:
    config = GPTConfig(vocab, 1, 1, 1, 16, 64)
    return native.Decoder(make(config), KVCache(config, 1, 64, dtype=torch.float32))


def some_sampling(rng: random.Random) -> Sampling:
    return Sampling(
        temperature=rng.choice([0, 1e-3, 0.3, 0.7, 1, 1, 1.4, 2]),
        top_k=rng.choice([0, 0, 1, 2, 5, 50, 200]),
        top_p=rng.choice([1, 1, 0, 0.3, 0.9, 0.99]),
        min_p=rng.choice([0, 0, 0.02, 0.1, 1]),
        repetition=rng.choice([1, 1, 0.7, 1.5, 2]),
    )


def acceptable(logits: torch.Tensor, row: Sampling, uniform: float, seen: torch.Tensor) -> set[int]:
    """What `choose` may pick when each of its comparisons is off by up to 1e-6, in float64."""
    z = logits.double()
    z = torch.where(seen, torch.where(z > 0, z / row.repetition, z * row.repetition), z)
    if row.greedy:
        return {i for i, score in enumerate(z.tolist()) if score >= z.max() - 1e-6}
    z = z / row.temperature
    ranked, ids = z.sort(descending=True, stable=True)
    if row.whole:
        ranked, ids = z, torch.arange(len(z))
    k, found = row.top_k or len(z), set()
    p = (ranked[:k] - z.max()).exp()
    before = (p.cumsum(0) - p) / p.sum()
    for off in (-1e-6, 1e-6):
        kept = torch.ones_like(p, dtype=torch.bool) if row.whole else before < row.top_p + off
        kept &= p >= row.min_p + off
        kept[0] |= not row.whole
        share = p * kept / (p * kept).sum()
        after = share.cumsum(0)
        near = (after - share <= uniform + 1e-6) & (uniform - 1e-6 <= after) & kept
        found |= {score for score, chosen in zip(ranked[:k].tolist(), near, strict=True) if chosen}
    return {
        i
        for i, score in zip(ids.tolist(), ranked.tolist(), strict=True)
        if any(math.isclose(score, other, rel_tol=1e-6, abs_tol=1e-6) for other in found)
    }


@pytest.mark.parametrize("vocab", [2, 5, 37, 1024])
def test_chooses_what_python_chooses(vocab):
    rng, generator = random.Random(vocab), torch.Generator().manual_seed(vocab)
    chooser, differ = decoder(vocab), 0
    for _ in range(40):
        rows = [some_sampling(rng) for _ in range(32)]
        uniform = [rng.random() for _ in rows]
        logits = torch.randn(32, vocab, generator=generator) * rng.choice([0.1, 1, 3])
        equals = rng.random() < 0.2  # whose order is anybody's choice
        logits = logits.round() if equals else logits
        seen = torch.rand(32, vocab, generator=generator) < 0.2
        picked = chooser.choose(logits, rows, uniform, seen)
        wanted = choose(logits, rows, uniform, seen).tolist()
        for i in (i for i in range(32) if picked[i] != wanted[i]):
            differ += not equals
            fine = acceptable(logits[i], rows[i], uniform[i], seen[i])
            assert {picked[i], wanted[i]} <= fine, (rows[i], uniform[i])
    assert differ < 3


def test_of_equal_scores_the_lower_id_comes_first():
    chooser, logits = decoder(300), torch.zeros(3, 300)
    logits[:, [7, 250]] = 1.0
    rows = [Sampling(temperature=0), Sampling(top_k=2), Sampling(top_k=2)]
    assert chooser.choose(logits, rows, [0.9, 0.4, 0.6]) == [7, 7, 250]
    assert chooser.choose(logits, [Sampling(top_k=4)] * 3, [0.6, 0.8, 0.95])[1:] == [0, 1]


def test_a_choice_does_not_depend_on_its_neighbors_or_on_threads(monkeypatch):
    rng, chooser = random.Random(0), decoder(1024)
    rows, uniform = [some_sampling(rng) for _ in range(40)], [rng.random() for _ in range(40)]
    logits, seen = torch.randn(40, 1024), torch.rand(40, 1024) < 0.2
    alone = [
        chooser.choose(logits[i : i + 1], rows[i : i + 1], uniform[i : i + 1], seen[i : i + 1])[0]
        for i in range(40)
    ]
    assert chooser.choose(logits, rows, uniform, seen) == alone
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert chooser.choose(logits, rows, uniform, seen) == alone


def test_no_token_is_chosen_that_is_cut_off():
    chooser, logits = decoder(50), torch.randn(64, 50)
    picked = chooser.choose(logits, [Sampling(top_k=3)] * 64, [1 - 2**-53] * 64)
    best = logits.topk(3).indices.tolist()
    assert all(token in best[row] for row, token in enumerate(picked))
    logits[:, 1:] = math.nan
    assert chooser.choose(logits, [Sampling(top_k=3)] * 64, [0.9] * 64) == [0] * 64


def engine_of(model: GPT, **options) -> Engine:
    tokens = [bytes([i]) for i in range(256)]
    tokens += [b"%d" % i for i in range(1000, 1000 + model.config.vocab_size - 265)]
    tokenizer = Tokenizer({token: i for i, token in enumerate(tokens)}, split_pattern())
    return Engine(model, tokenizer, **options)


def test_a_new_batch_knows_what_training_changed():
    model = make(SHAPES["short windows"])
    engine = engine_of(model, compile=True)
    ask = {"max_tokens": 12, "temperature": 0, "tools": False}
    before = engine.generate_batch([[5, 6, 7]], **ask)[0].tokens
    with torch.no_grad():
        model.head.weight.copy_(model.head.weight.flip(0))
    after = engine.generate_batch([[5, 6, 7]], **ask)[0].tokens
    plain = engine_of(model).generate_batch([[5, 6, 7]], **ask)[0].tokens
    assert after == plain != before


def test_a_bfloat16_model_decodes_in_float32():
    model = make(SHAPES["one key head for two"], torch.bfloat16)
    batch = Batch(engine_of(model, compile=True), 2)
    batch.join([[Reply([1, 2, 3], Sampling(temperature=0), tools=False)]])
    batch.step()
    assert batch.logits.dtype == torch.float32 and batch.logits.isfinite().all()


def test_rows_that_end_leave_the_others_alone():
    model = make(SHAPES["short windows"])
    prompts = [list(range(3, 3 + n)) for n in (4, 9, 2, 6, 5)]
    ask = {"max_tokens": 20, "temperature": 0.9, "tools": False, "seed": 3}
    few = engine_of(model, compile=True).generate_batch(prompts, rows=2, **ask)
    many = engine_of(model, compile=True).generate_batch(prompts, rows=64, **ask)
    assert [r.tokens for r in few] == [r.tokens for r in many]


def test_eight_bits_need_the_compiled_step():
    with pytest.raises(ChatlibError, match="8 bits need"):
        engine_of(make(SHAPES["one layer"]), int8=True)


@pytest.fixture
def another_home(tmp_path, monkeypatch):
    monkeypatch.setenv("CHATLIB_HOME", str(tmp_path))
    monkeypatch.delenv("CHATLIB_COMPILE", raising=False)
    native.load.cache_clear()
    native.loads.cache_clear()
    yield tmp_path
    native.load.cache_clear()
    native.loads.cache_clear()


def test_without_a_compiler_it_says_so_and_does_without(another_home, monkeypatch, capsys):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert not native.available() and not native.available()
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and "install g++" in said  # once, however many engines are made


def test_a_compiler_that_fails_leaves_nothing_behind(another_home, monkeypatch, capsys):
    monkeypatch.setattr(native, "FLAGS", ["--no-such-flag"])
    assert not native.available()
    assert "could not compile" in capsys.readouterr().out
    assert not list((another_home / "native").iterdir())


def test_compiling_can_be_switched_off(another_home, monkeypatch, capsys):
    monkeypatch.setenv("CHATLIB_COMPILE", "0")
    assert not native.available() and not capsys.readouterr().out
