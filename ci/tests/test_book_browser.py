"""The built pages in a real browser: nothing is asked of the network, nothing is broken."""

import functools
import http.server
import re
import threading
from pathlib import Path

import nbformat
import pytest
import torch
from nbclient import NotebookClient

from chatlib.notebook import reference
from ci import book, hygiene, normalize, notebooks
from ci._venv import ROOT
from ci.tests.browsing import complaints, scrolls_sideways
from ci.tests.small_site import small_site

TEXT = """# A page

It has math, $H = -\\sum_i p_i \\log_2 p_i$, a source, a figure and a widget.
"""
SETUP = """\
import matplotlib.pyplot as plt
from chatlib import errors
from chatlib.notebook.display import show_source
from chatlib.notebook.plots import figure, finding, label_level, style
from chatlib.notebook.widget import LossExplorer
style()
"""
FIGURE = """\
fig, ax = plt.subplots()
ax.plot([1, 2, 3], [3, 2, 1.5])
label_level(ax, 1.2, "floor")
finding("It falls")
figure(caption="It falls, $L = 1$ apart.", alt="a falling line")
"""
WIDGET = """\
rows = [{"step": s, "val_bpb": 1 + 7 / (1 + s), "sample": f"sample {s}"} for s in (0, 1, 3, 10, 30)]
LossExplorer(rows, floor=1.0, baselines={"xz": 2.3})
"""
PLAYGROUND = """\
from chatlib.notebook import reference
from chatlib.notebook.tokenizer_playground import TokenizerPlayground
TokenizerPlayground(reference.tokenizer(), "Zoé is the beekeeper of Larkhill.")
"""
EXPLORER = """\
from chatlib.notebook.attention_explorer import AttentionExplorer
texts = {"the thread": "Zoé is the beekeeper of Larkhill.", "a sum": "3 + 4 = 7"}
AttentionExplorer(reference.model("base"), reference.tokenizer(), texts)
"""


@pytest.fixture(scope="module")
def page() -> nbformat.NotebookNode:
    """A notebook with one of each, run."""
    cell = nbformat.v4.new_code_cell
    shown = cell("show_source(errors.ChatlibError)", metadata={"tags": ["remove-input"]})
    widgets = [cell(WIDGET), cell(PLAYGROUND), cell(EXPLORER)]
    cells = [nbformat.v4.new_markdown_cell(TEXT), cell(SETUP), shown, cell(FIGURE), *widgets]
    notebook = nbformat.v4.new_notebook(cells=cells)
    NotebookClient(notebook, kernel_name="python3", timeout=120).execute(cwd=str(ROOT))
    return normalize.normalize(notebook, "page.ipynb")


@pytest.fixture(scope="module")
def site(page, tmp_path_factory) -> Path:
    """A small book with the real settings, styles and first page; its folder of HTML."""
    folder = tmp_path_factory.mktemp("book")
    sources = small_site(folder / "site", "book/page", "book/back/setup")
    notebooks.write(sources / "book" / "page.ipynb", page)
    assert book.build(sources, folder) == 0
    return folder / "_build" / "html"


@pytest.fixture(scope="module")
def served(site):
    """The same folder over http."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(site))
    handler.log_message = lambda *_: None
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


class Visit:
    """A page opened, with everything it asked for and complained of."""

    def __init__(self, browser, base: str, path: str, theme: str = "light", width: int = 1280):
        context = browser.new_context(color_scheme=theme, viewport={"width": width, "height": 900})
        self.page = context.new_page()
        self.outside, self.complaints = [], complaints(self.page)
        own = (base, "data:", "blob:")
        self.page.on("request", lambda r: r.url.startswith(own) or self.outside.append(r.url))
        self.page.on("requestfailed", lambda r: self.complaints.append(f"failed: {r.url}"))
        self.page.on(
            "response", lambda r: r.status >= 400 and self.complaints.append(f"{r.status} {r.url}")
        )
        self.page.goto(f"{base}/{path}")
        self.page.wait_for_load_state("networkidle")


PAGES = ("book/index.html", "book/page.html", "book/back/setup.html", "search.html?q=python")


@pytest.mark.slow
@pytest.mark.parametrize("path", PAGES)
@pytest.mark.parametrize("scheme", ["file", "http"])
def test_a_page_asks_nothing_of_the_network(browser, site, served, scheme, path):
    visit = Visit(browser, site.as_uri() if scheme == "file" else served, path)
    assert visit.outside == []
    assert visit.complaints == []


@pytest.mark.slow
def test_the_browser_test_would_notice(browser, site):
    spoiled = site / "spoiled.html"
    spoiled.write_text(
        '<script src="https://example.invalid/x.js"></script><script>nope()</script>'
    )
    visit = Visit(browser, site.as_uri(), spoiled.name)
    assert visit.outside == ["https://example.invalid/x.js"]
    assert len(visit.complaints) >= 2


@pytest.mark.slow
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("path", PAGES[:3])
def test_a_page_fits_a_phone(browser, site, theme, path):
    visit = Visit(browser, site.as_uri(), path, theme, width=390)
    assert visit.page.evaluate("document.documentElement.dataset.theme") == theme
    assert not scrolls_sideways(visit.page)


@pytest.mark.slow
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_widget_works_without_a_kernel(browser, site, theme):
    page = Visit(browser, site.as_uri(), "book/page.html", theme).page
    panel = page.locator(".cl-loss-explorer .cl-panel")
    assert "Step 30" in panel.inner_text() and "sample 30" in panel.inner_text()
    plot = page.locator(".cl-loss-explorer [role=slider]")
    plot.press("ArrowLeft")
    assert "sample 10" in panel.inner_text()
    plot.press("Home")
    assert plot.get_attribute("aria-valuenow") == "0"
    plot.hover(position={"x": plot.bounding_box()["width"] - 15, "y": 50})
    assert "sample 30" in panel.inner_text()


def darkness(page, selector: str) -> float:
    """How dark the words of an element are: 0 white, 1 black."""
    color = page.locator(selector).first.evaluate("e => getComputedStyle(e).color")
    return 1 - sum(map(int, re.findall(r"\d+", color)[:3])) / 765


@pytest.mark.slow
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_tokenizer_works_without_a_kernel(browser, site, theme):
    visit = Visit(browser, site.as_uri(), "book/page.html", theme, width=390)
    page, tokenizer = visit.page, reference.tokenizer()
    row = page.locator(".cl-tokenizer-playground .cl-tokens")
    ids = tokenizer.encode("Zoé is the beekeeper of Larkhill.")
    assert row.get_attribute("data-ids") == " ".join(map(str, ids))
    page.fill(".cl-tokenizer-playground textarea", "Good morning, Zoé 🐝")
    ids = tokenizer.encode("Good morning, Zoé 🐝")
    assert row.get_attribute("data-ids") == " ".join(map(str, ids))
    row.locator("button").first.click()
    assert f"Token {ids[0]}, " in page.locator(".cl-tokenizer-playground .cl-panel").inner_text()
    assert (darkness(page, ".cl-tokenizer-playground textarea") > 0.5) == (theme == "light")
    assert not scrolls_sideways(page) and visit.complaints == [] == visit.outside


@pytest.mark.slow
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_attention_can_be_explored_without_a_kernel(browser, site, theme):
    visit = Visit(browser, site.as_uri(), "book/page.html", theme, width=390)
    page, model, tokenizer = visit.page, reference.model("base"), reference.tokenizer()
    panel = page.locator(".cl-attention-explorer .cl-panel")
    page.get_by_role("radio", name="layer 3, head 1").click()
    page.locator(".cl-attention-explorer .cl-tokens").press("End")
    ids = torch.tensor([[tokenizer.bos, *tokenizer.encode("Zoé is the beekeeper of Larkhill.")]])
    largest = model.attention_maps(ids)[3, 0, 1, -1].max().item()
    assert f"{round(100 * round(255 * largest) / 255)} %" in panel.inner_text()
    page.select_option(".cl-attention-explorer select", "1")
    assert f"Token {len(tokenizer.encode('3 + 4 = 7'))}, 7, reads" in panel.inner_text()
    assert (darkness(page, ".cl-attention-explorer .cl-tokens") > 0.5) == (theme == "light")
    assert not scrolls_sideways(page) and visit.complaints == [] == visit.outside


@pytest.mark.slow
def test_math_figures_and_source_are_there(browser, site):
    page = Visit(browser, site.as_uri(), "book/page.html").page
    assert page.locator("mjx-container").count() == 2
    picture = page.locator("div.cell_output img")
    assert picture.get_attribute("alt") == "a falling line"
    assert picture.evaluate("img => img.complete && img.naturalWidth > 0")
    assert "class ChatlibError(Exception):" in page.locator("div.highlight").all_inner_texts()[1]
    assert "chatlib/errors.py, lines" in page.locator("article").inner_text()


@pytest.mark.slow
def test_figures_are_inverted_where_the_page_is_dark(browser, site):
    look = "img => getComputedStyle(img).filter"
    seen = {
        theme: Visit(browser, site.as_uri(), "book/page.html", theme)
        .page.locator("div.cell_output img")
        .evaluate(look)
        for theme in ("light", "dark")
    }
    assert seen["light"] == "none"
    assert seen["dark"].startswith("invert")


def test_the_page_is_fit_to_be_committed(page, tmp_path):
    path = tmp_path / "page.ipynb"
    notebooks.write(path, page)
    assert hygiene.problems(path) == []


def test_running_it_again_leaves_no_difference(page):
    again = nbformat.from_dict(page)
    NotebookClient(again, kernel_name="python3", timeout=120).execute(cwd=str(ROOT))
    assert notebooks.dumps(normalize.normalize(again, "page.ipynb")) == notebooks.dumps(page)
