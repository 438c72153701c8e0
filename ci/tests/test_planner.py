"""The planner: it must reproduce the run that is known before it may predict others."""

from dataclasses import replace

import pytest

from chatlib.errors import ChatlibError
from chatlib.planner import (
    ERROR,
    describe,
    estimate,
    fitting_rows,
    get_device,
    memory,
    muon_flops,
)
from chatlib.scaling import RUN_6, get_scale, make_plan

REFERENCE_SECONDS = 1.067  # a step of RUN_6 on 8xH100 in fp8, 16 rows a device


def test_the_time_model_reproduces_the_reference_run():
    guess = estimate(make_plan(RUN_6), get_device("H100"), gpus=8, rows=16)
    assert guess.step.total == pytest.approx(REFERENCE_SECONDS, rel=ERROR)
    assert guess.hours == pytest.approx(1.65, rel=0.05)
    assert guess.mfu == pytest.approx(0.59, abs=0.03)
    assert muon_flops(guess.plan.config) == pytest.approx(26.1e12, rel=0.02)
    assert 0.500 < guess.step.gemm < 0.575
    assert guess.step.attention == pytest.approx(0.142, rel=0.05)


def test_bfloat16_is_slower_than_fp8_by_about_what_was_published():
    plan = make_plan(RUN_6)
    with_fp8, without = (estimate(plan, get_device("H100"), 8, 16, fp8=f) for f in (True, False))
    assert 1.1 < without.step.total / with_fp8.step.total < 1.4


@pytest.mark.parametrize(
    ("scale", "device", "asked", "fp8"),
    [
        ("node", "H100", None, True),
        ("node", "A100", None, False),
        ("node", "A100", True, False),
        ("node", "H100", False, False),
        ("gpu", "H100", None, False),
        ("gpu", "H100", True, True),
    ],
)
def test_it_computes_in_what_the_trainer_would_use_unless_asked(scale, device, asked, fp8):
    guess = estimate(make_plan(get_scale(scale)), get_device(device), 8, rows=16, fp8=asked)
    assert guess.fp8 == fp8
    if asked is None:
        assert f" {'fp8' if fp8 else 'bf16'} " in describe(get_scale(scale), device, 8)


@pytest.mark.parametrize(
    ("depth", "ratio", "fp8", "tokens_per_second"),
    [(24, 12.0, False, 800e3), (26, 8.5, False, 630e3), (26, 8.5, True, 740e3)],
)
def test_runs_that_it_was_not_fitted_to_are_within_the_stated_error(
    depth, ratio, fp8, tokens_per_second
):
    plan = make_plan(replace(RUN_6, depth=depth, tokens_per_param=ratio, batch_tokens=2**19))
    guess = estimate(plan, get_device("H100"), 8, rows=16, fp8=fp8)
    assert guess.tokens_per_second == pytest.approx(tokens_per_second, rel=ERROR)


@pytest.mark.parametrize(
    ("vocabulary", "ratio", "rows", "minutes"),
    [(32_768, 11.05, 16, 88.2), (49_152, 9.4, 32, 81.8)],
    ids=["thread 733", "thread 830"],
)
def test_reported_runs_that_it_was_not_fitted_to_are_within_the_stated_error(
    vocabulary, ratio, rows, minutes
):
    scale = replace(RUN_6, depth=22, vocab_size=vocabulary, tokens_per_param=ratio)
    guess = estimate(make_plan(scale), get_device("H100"), 8, rows)
    assert 60 * guess.hours == pytest.approx(minutes, rel=ERROR / 2)


@pytest.mark.parametrize("scale", [get_scale("node"), RUN_6], ids=lambda scale: scale.name)
def test_the_node_scale_fits_with_the_rows_that_it_asks_for(scale):
    assert estimate(make_plan(scale), get_device("H100"), 8).rows == scale.device_batch


@pytest.mark.parametrize("gigabytes", [8, 16, 24, 80, 141])
def test_a_larger_card_takes_at_least_as_many_rows(gigabytes):
    plan = make_plan(get_scale("gpu"))
    rows = fitting_rows(plan.config, gigabytes * 1e9, plan.batch_tokens)
    assert rows >= 1
    assert memory(plan.config, rows).total <= gigabytes * 1e9
    share = plan.batch_tokens // plan.config.sequence_len
    assert share % rows == 0
    more = memory(plan.config, rows * 2).total
    assert rows == share or more > gigabytes * 1e9


def test_what_does_not_fit_is_said():
    deep = make_plan(get_scale("gpu", depth=32))
    assert fitting_rows(deep.config, 8e9, deep.batch_tokens) == 0
    assert "does not fit" in describe(get_scale("gpu", depth=32), "RTX 3070")


def test_unknown_devices_are_refused():
    with pytest.raises(ChatlibError, match="H100"):
        get_device("abacus")
    with pytest.raises(ChatlibError, match="gpus=0"):
        estimate(make_plan(get_scale("node")), get_device("H100"), gpus=0)
