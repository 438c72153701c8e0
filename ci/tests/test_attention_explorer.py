"""The attention explorer shows the weights that the model computed, and works from a file."""

import base64

import numpy as np
import pytest
import torch

from chatlib.data.world import THREAD_SENTENCE
from chatlib.notebook.attention_explorer import AttentionExplorer, pack, readable
from ci.tests.browsing import fits_a_phone, widget_page
from ci.tests.tiny_models import byte_tokenizer, random_model

TEXTS = {"the thread": THREAD_SENTENCE, "short": "a b\na"}


@pytest.fixture(scope="module")
def tokenizer():
    return byte_tokenizer(" the", " is")


@pytest.fixture(scope="module")
def explorer(tokenizer):
    return AttentionExplorer(random_model(tokenizer), tokenizer, TEXTS, start=(1, 2))


@pytest.fixture(scope="module")
def page(browser, explorer, tmp_path_factory):
    return widget_page(browser, explorer, tmp_path_factory.mktemp("page"))


def test_weights_are_stored_to_a_byte():
    maps = torch.rand(2, 3, 5, 5).tril()
    stored = np.frombuffer(base64.b64decode(pack(maps)), np.uint8).reshape(2, 3, 15) / 255
    rows, columns = np.tril_indices(5)
    assert np.abs(stored - maps.numpy()[..., rows, columns]).max() <= 0.5 / 255 + 1e-6


def test_tokens_can_be_read(tokenizer):
    first, second = tokenizer.encode("é")
    assert [readable(tokenizer, i) for i in (first, second)] == ["⟨C3⟩", "⟨A9⟩"]
    assert readable(tokenizer, tokenizer.bos) == "⟨bos⟩"
    assert readable(tokenizer, tokenizer.encode(" the")[0]) == " the"


def strongest(tokenizer, layer: int, head: int, asks: int) -> str:
    """What the panel must say: the key that the model itself weighs most."""
    model = random_model(tokenizer)
    ids = [tokenizer.bos, *tokenizer.encode(THREAD_SENTENCE)]
    weights = model.attention_maps(torch.tensor([ids]))[layer, 0, head, asks]
    key = int(weights.argmax())
    return f"({'itself' if key == asks else f'{asks - key} back'})"


@pytest.mark.slow
def test_the_page_shows_what_the_model_computed(page, tokenizer):
    panel, strip = page.locator(".cl-panel"), page.locator(".cl-tokens")
    page.select_option("select", "0")
    last = len(tokenizer.encode(THREAD_SENTENCE))
    assert page.locator(".cl-bar strong").inner_text() == "layer 1, head 2"
    assert f"Token {last}, ., reads" in panel.inner_text()
    assert strongest(tokenizer, 1, 2, last) in panel.inner_text().split("\n")[1]
    strip.press("ArrowLeft")
    assert strongest(tokenizer, 1, 2, last - 1) in panel.inner_text().split("\n")[1]
    strip.press("Home")
    assert "100 %" in panel.inner_text() and "itself" in panel.inner_text()


@pytest.mark.slow
def test_heads_are_chosen_by_click_and_by_key(page, tokenizer):
    page.get_by_role("radio", name="layer 0, head 1").click()
    assert page.locator(".cl-bar strong").inner_text() == "layer 0, head 1"
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    assert page.locator(".cl-bar strong").inner_text() == "layer 1, head 2"
    assert page.locator("[aria-checked=true]").count() == 1
    page.select_option("select", "1")
    page.locator(".cl-tokens span").nth(3).hover()
    assert "Token 3, b, reads" in page.locator(".cl-panel").inner_text()


@pytest.mark.slow
def test_it_fits_a_phone(page):
    assert fits_a_phone(page)
