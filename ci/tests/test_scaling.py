"""The dial: its laws against the published table, its counts against the live model."""

from dataclasses import asdict, replace

import pytest
import torch

from chatlib.errors import ChatlibError
from chatlib.model import GPT
from chatlib.scaling import (
    RUN_6,
    SCALES,
    count_parameters,
    flops_per_token,
    get_scale,
    make_plan,
    model_config,
)

# depth: (width, scaling parameters, total, FLOPs a token, batch, weight decay) at ratio 12
TABLE = {
    12: (768, 110.1e6, 286.3e6, 7.60e8, 2**19, 0.280),
    20: (1280, 435.2e6, 896.5e6, 2.89e9, 2**20, 0.100),
    24: (1536, 729.8e6, 1384.1e6, 4.775e9, 2**20, 0.0597),
    26: (1664, 918.4e6, 1681.8e6, 5.99e9, 2**20, 0.0475),
}


@pytest.mark.parametrize("depth", TABLE)
def test_the_dial_reproduces_the_published_table(depth):
    plan = make_plan(replace(RUN_6, depth=depth, tokens_per_param=12.0))
    width, scaling, total, flops, batch, decay = TABLE[depth]
    assert plan.config.n_embd == width
    assert plan.parameters.scaling == pytest.approx(scaling, rel=1e-3)
    assert plan.parameters.total == pytest.approx(total, rel=1e-3)
    assert plan.flops_per_token == pytest.approx(flops, rel=3e-3)
    assert plan.batch_tokens == batch
    assert plan.weight_decay == pytest.approx(decay, rel=1e-2)


def test_the_speedrun_has_the_published_steps_and_flops():
    plan = make_plan(RUN_6)
    assert plan.steps == 5568
    assert plan.tokens == pytest.approx(5.84e9, rel=1e-3)
    assert plan.flops == pytest.approx(2.79e19, rel=5e-3)


def test_the_node_scale_is_the_speedrun_with_what_two_reports_and_we_changed():
    node, run_6 = asdict(get_scale("node")), asdict(RUN_6)
    changed = {key: value for key, value in node.items() if value != run_6[key]}
    assert changed == {
        "name": "node", "vocab_size": 49_152, "depth": 22, "tokens_per_param": 9.4,
        "warmdown": 0.85, "final_lr": 0.0, "nearby": 2 / 3,
    }  # fmt: skip
    plan = make_plan(get_scale("node"))
    assert plan.config.n_embd == 1408 and plan.batch_tokens == 2**20
    assert plan.steps == 5312 and plan.tokens == pytest.approx(5.57e9, rel=1e-3)


@pytest.mark.parametrize("scale", [*SCALES.values(), RUN_6], ids=lambda scale: scale.name)
def test_counts_by_hand_equal_the_live_model(scale):
    config = model_config(scale)
    with torch.device("meta"):
        live = GPT(config).num_params()
    count = count_parameters(config)
    assert count.total == live["total"]
    assert count.matrices == live["blocks"]
    assert count.head == live["head"]
    assert count.scalars == live["scalars"]


def test_flops_count_short_windows_as_short():
    long = model_config(get_scale("node"))
    assert flops_per_token(replace(long, window_pattern="L")) > flops_per_token(long)


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"depth": 0}, "depth=0"),
        ({"batch_tokens": 1000}, "batch_tokens=1000"),
        ({"head_dim": 7}, "head_dim=7"),
        ({"sequence_len": 4}, "sequence_len=4"),
        ({"colour": 1}, "no setting 'colour'"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, word):
    with pytest.raises(ChatlibError, match=word):
        get_scale("laptop", **settings)


def test_a_slow_processor_reads_less_but_never_more_than_was_asked():
    laptop = get_scale("laptop")
    assert make_plan(laptop, slow=True).tokens == laptop.train_tokens_slow < laptop.train_tokens
    assert make_plan(laptop).tokens == laptop.train_tokens
    assert make_plan(get_scale("laptop", train_tokens=409_600), slow=True).tokens == 409_600
    assert make_plan(get_scale("laptop", train_tokens_slow=0), slow=True) == make_plan(
        get_scale("laptop", train_tokens_slow=0)
    )


def test_an_unknown_scale_names_the_known_ones():
    with pytest.raises(ChatlibError, match="laptop"):
        get_scale("mainframe")
