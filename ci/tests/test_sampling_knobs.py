"""The knobs in the page cut a distribution just as `chatlib.sampling` does."""

import random

import pytest
import torch

from chatlib.data.world import THREAD_SENTENCE
from chatlib.notebook.sampling_knobs import SamplingKnobs
from chatlib.sampling import Sampling, choose
from ci.tests.browsing import fits_a_phone, widget_page
from ci.tests.tiny_models import byte_tokenizer, random_model


@pytest.fixture(scope="module")
def knobs():
    tokenizer = byte_tokenizer(" the", " is")
    return SamplingKnobs(random_model(tokenizer), tokenizer, {"Zoé": "Zoé", "all": THREAD_SENTENCE})


@pytest.fixture(scope="module")
def page(browser, knobs, tmp_path_factory):
    return widget_page(browser, knobs, tmp_path_factory.mktemp("page"), "window.cut = m.cut;")


def chances(logits: list[float], settings: dict, n: int = 4000) -> torch.Tensor:
    """Shares of the tokens that the library picks, from darts spread evenly."""
    rows = torch.tensor([logits]).expand(n, -1)
    darts = [(i + 0.5) / n for i in range(n)]
    return (
        torch.bincount(choose(rows, [Sampling(**settings)] * n, darts), minlength=len(logits)) / n
    )


def test_scores_are_ranked_and_all_there(knobs):
    for place in knobs.data["places"]:
        assert place["logits"] == sorted(place["logits"], reverse=True)
        assert len(place["logits"]) == 267 and len(place["tokens"]) == 24


@pytest.mark.slow
def test_the_page_cuts_as_the_library_does(page, knobs):
    dice = random.Random(0)
    logits = knobs.data["places"][0]["logits"]
    for _ in range(40):
        settings = {
            "temperature": dice.choice([0, 0.3, 1.0, 1.7]),
            "top_k": dice.choice([0, 1, 3, 40]),
            "top_p": dice.choice([0.0, 0.313, 0.871, 1.0]),
            "min_p": dice.choice([0.0, 0.07, 0.31]),
        }
        got = torch.tensor(page.evaluate("([l, s]) => cut(l, s)", [logits, settings]))
        assert (got - chances(logits, settings)).abs().max() < 0.001, settings


@pytest.mark.slow
def test_moving_a_knob_cuts_bars_and_reset_brings_them_back(page):
    page.locator("input[name=top_k]").fill("3")
    assert page.locator(".cl-bars .cl-cut").count() == 21
    assert "3 of 267 tokens stay" in page.locator(".cl-panel").inner_text()
    page.get_by_role("button", name="Draw").click()
    assert len(page.locator(".cl-sample").inner_text().split()) >= 20
    page.get_by_role("button", name="Reset").click()
    assert page.locator(".cl-bars .cl-cut").count() == 0


@pytest.mark.slow
def test_it_fits_a_phone(page):
    assert fits_a_phone(page)
