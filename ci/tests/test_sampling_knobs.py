"""The knobs in the page cut a distribution just as `chatlib.sampling` does."""

import base64
import json
import random
import shutil

import pytest
import torch

from chatlib.data.world import THREAD_SENTENCE
from chatlib.notebook.sampling_knobs import SamplingKnobs
from chatlib.sampling import Sampling, choose
from ci.tests.tiny_models import byte_tokenizer, random_model

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]


@pytest.fixture(scope="module")
def knobs():
    tokenizer = byte_tokenizer(" the", " is")
    return SamplingKnobs(random_model(tokenizer), tokenizer, {"Zoé": "Zoé", "all": THREAD_SENTENCE})


@pytest.fixture(scope="module")
def page(knobs, tmp_path_factory):
    """The widget, alone on a page that was opened as a file, without a network."""
    if CHROMIUM is None:
        pytest.skip("no Chromium here: install it to test the widget in a browser")
    sync_api = pytest.importorskip("playwright.sync_api")
    path = tmp_path_factory.mktemp("page") / "page.html"
    code = base64.b64encode(knobs._esm.encode()).decode()
    path.write_text(
        f"<!doctype html><meta charset=utf-8><style>{knobs._css}</style><div id=w></div>"
        f"<script>const data = {json.dumps(knobs.data).replace('<', chr(92) + 'u003c')};"
        f"const code = new Blob([new TextDecoder().decode(Uint8Array.from(atob('{code}'), "
        "c => c.charCodeAt(0)))], {type: 'text/javascript'});"
        "import(URL.createObjectURL(code)).then(m => { window.cut = m.cut; "
        "m.default.render({model: {get: (k) => ({data, alt: 'knobs'})[k]}, "
        "el: document.getElementById('w')}); });</script>",
        encoding="utf8",
    )
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        opened = browser.new_context(offline=True).new_page()
        opened.goto(path.as_uri())
        opened.wait_for_function("window.cut !== undefined")
        yield opened
        browser.close()


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
    page.set_viewport_size({"width": 390, "height": 900})
    wide = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
    assert not page.evaluate(wide)
