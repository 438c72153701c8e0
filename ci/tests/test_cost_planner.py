"""The planner in the page gives the numbers of the planner in Python."""

import itertools
import json
import shutil
import subprocess

import pytest

from chatlib.notebook.cost_planner import CostPlanner
from chatlib.notebook.widget import HERE
from chatlib.planner import DEVICES, estimate
from chatlib.scaling import get_scale, make_plan
from ci.tests.browsing import fits_a_phone, widget_page

NODE = shutil.which("node")
GRID = [
    {"device": device, "gpus": gpus, "price": 2.5, "depth": depth, "ratio": ratio, "fp8": fp8}
    for device, gpus, depth, ratio, fp8 in itertools.product(
        DEVICES, (1, 2, 4, 8), (4, 5, 12, 17, 24, 26, 40), (2.0, 8.0, 9.4, 40.0), (True, False)
    )
]


def expected(depth: int, ratio: float, device: str, gpus: int, price: float, fp8: bool) -> dict:
    plan = make_plan(get_scale("node", depth=depth, tokens_per_param=ratio))
    guess = estimate(plan, DEVICES[device], gpus, fp8=fp8, price=price)
    return {
        "steps": plan.steps, "batch": plan.batch_tokens, "tokens": plan.tokens,
        "flopsPerToken": plan.flops_per_token, "rows": guess.rows, "fits": guess.fits,
        "seconds": guess.step.total, "hours": guess.hours, "dollars": guess.dollars,
        "mfu": guess.mfu, "need": guess.memory.total,
        "parts": vars(guess.step), "bytes": vars(guess.memory),
    }  # fmt: skip


@pytest.fixture(scope="module")
def data() -> dict:
    return CostPlanner().data


def in_javascript(data: dict, asked: list[dict], folder) -> list[dict]:
    """What the widget's own `project` gives for each of `asked`."""
    if NODE is None:
        pytest.skip("no node here: install it to test the widget's arithmetic")
    (folder / "cost_planner.mjs").write_text((HERE / "cost_planner.js").read_text("utf8"), "utf8")
    (folder / "run.mjs").write_text(
        'import { project } from "./cost_planner.mjs"; import fs from "fs";'
        'const { data, asked } = JSON.parse(fs.readFileSync(0, "utf8"));'
        "console.log(JSON.stringify(asked.map((a) => project(data, a))));",
        "utf8",
    )
    told = json.dumps({"data": data, "asked": asked})
    done = subprocess.run(
        [NODE, folder / "run.mjs"], input=told, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def test_its_arithmetic_is_that_of_python_on_a_grid(data, tmp_path):
    fitting = 0
    for asked, got in zip(GRID, in_javascript(data, GRID, tmp_path), strict=True):
        want = expected(**asked)
        fitting += want["fits"]
        for name in ("steps", "batch", "tokens", "rows", "fits"):
            assert got[name] == want[name], (asked, name)
        for name in ("flopsPerToken", "seconds", "hours", "dollars", "mfu", "need"):
            assert got[name] == pytest.approx(want[name], rel=1e-9), (asked, name)
        assert got["parts"] == pytest.approx(want["parts"], rel=1e-9), asked
        assert got["bytes"] == pytest.approx(want["bytes"], rel=1e-9), asked
    assert 100 < fitting < len(GRID) - 100, "the grid must hold both what fits and what does not"


def test_a_chosen_mfu_decides_the_time(data, tmp_path):
    asked = GRID[0] | {"device": "H100", "gpus": 8, "depth": 24, "ratio": 8.0, "mfu": 0.5}
    (got,) = in_javascript(data, [asked], tmp_path)
    plan = make_plan(get_scale("node", depth=24, tokens_per_param=8.0))
    hours = plan.flops_per_token * plan.batch_tokens * plan.steps / (0.5 * 8 * 989e12) / 3600
    assert got["hours"] == pytest.approx(hours, rel=1e-9)
    assert got["mfu"] == pytest.approx(0.5)


@pytest.fixture(scope="module")
def page(browser, tmp_path_factory):
    return widget_page(browser, CostPlanner(), tmp_path_factory.mktemp("page"))


@pytest.mark.slow
def test_moving_a_dial_changes_what_is_said(page):
    panel = page.locator(".cl-panel")
    guess = estimate(make_plan(get_scale("node")), DEVICES["H100"], 8)
    assert f"{guess.step.total:.3f} s each; 16 rows a micro-batch" in panel.inner_text()
    assert f"{guess.plan.steps:,} steps" in panel.inner_text()  # the slider holds the ratio exactly
    page.select_option("[name=device]", "RTX 3070")
    assert "does not fit" in panel.inner_text()
    assert page.locator("[name=price]").input_value() == "0.15"
    page.locator("[name=depth]").fill("12")
    assert "hours" in panel.inner_text() and "does not fit" not in panel.inner_text()
    page.locator("[name=own]").check()
    page.locator("[name=mfu]").fill("40")
    assert not page.locator(".cl-times").is_visible()
    assert page.locator("[name=mfu]").is_enabled()


@pytest.mark.slow
def test_it_fits_a_phone(page):
    assert fits_a_phone(page)
