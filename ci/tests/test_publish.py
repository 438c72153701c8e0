"""A run made fit to be shown: complete, without this machine's paths, and a page that builds."""

import json
import shutil

import pytest
import yaml

from chatlib.notebook import reference
from chatlib.runs import Run, home
from ci import book, publish
from ci.tests.small_site import small_site


@pytest.fixture
def run(tmp_path, monkeypatch) -> Run:
    """The reference run, put where runs are, with an executed notebook that shows a path."""
    monkeypatch.setenv("CHATLIB_HOME", str(tmp_path / "home"))
    run = Run.create_or_open("shared", "laptop")
    report = reference.report() | {"run": "shared", "minutes": {"2_pretrain": 30.0}}
    (run.path / "report.json").write_text(json.dumps(report))
    (run.path / "metrics").mkdir()
    shutil.copy(reference.FOLDER / "base.jsonl", run.metrics_path("base"))
    run.notebooks_dir.mkdir()
    said = json.dumps({"cells": [], "said": f"{run.tokenizer_path} and {home()}"})
    (run.notebooks_dir / "1_tokenizer.ipynb").write_text(said)
    (run.stage_dir("base") / "step_000001").mkdir(parents=True)
    (run.stage_dir("base") / "step_000001" / "model.safetensors").write_bytes(b"weights")
    return run


def test_what_is_gathered_tells_of_the_run_and_not_of_the_machine(run, tmp_path):
    names = publish.gather(run, tmp_path / "out")
    assert {"manifest.json", "metrics/base.jsonl", "notebooks/1_tokenizer.ipynb"} <= set(names)
    assert not [name for name in names if "safetensors" in name]
    shown = (tmp_path / "out/notebooks/1_tokenizer.ipynb").read_text()
    assert "~/.cache/chatlib/runs/shared/tokenizer.json and ~/.cache/chatlib" in shown
    for name in names:
        assert str(tmp_path) not in (tmp_path / "out" / name).read_text()


def test_the_page_has_costs_curve_samples_and_the_way_to_repeat_it(run):
    report = json.loads((run.path / "report.json").read_text())
    text = publish.page(report, reference.metrics("base"), price=24.0)
    assert text.startswith("# Run shared\n")
    assert "| 2_pretrain | 30.0 | 12.00 |" in text and "| **total** | 30.0 | 12.00 |" in text
    assert 'aria-label="bits per byte fall from' in text
    assert "--scale laptop --run shared" in text and report["system"]["git_commit"] in text
    assert "CORE 0." not in text, "the small world has no CORE score"
    passed = publish.page(report | {"core": 0.2602}, reference.metrics("base"), 0)
    assert "CORE 0.2602, which passes GPT-2's" in passed and "What it cost" not in passed
    assert "does not pass" in publish.page(report | {"core": 0.25}, reference.metrics("base"), 0)


def test_what_the_model_wrote_cannot_leave_its_box():
    evil = [{"step": 1, "text": "```\n<script>alert(1)</script>"}]
    assert publish.samples(evil).count("~~~~text\n```\n<script>") == 3


def test_the_page_is_listed_once_and_before_the_back_matter():
    toc = (book.ROOT / "_toc.yml").read_text()
    once = publish.list_page(toc, "mine")
    both = publish.list_page(publish.list_page(once, "mine"), "yours")
    parts = {part["caption"]: part["chapters"] for part in yaml.safe_load(both)["parts"]}
    assert [c["file"] for c in parts["Runs"]] == ["book/runs/yours", "book/runs/mine"]
    assert list(parts)[-2:] == ["Runs", "Back matter"]


@pytest.mark.slow
def test_the_page_builds(run, tmp_path):
    report = json.loads((run.path / "report.json").read_text())
    site = small_site(tmp_path / "site", "book/runs/shared", "book/back/setup")
    (site / "book/runs").mkdir()
    text = publish.page(report, reference.metrics("base"), 24.0)
    (site / "book/runs/shared.md").write_text(text)
    assert book.build(site, tmp_path) == 0


def test_an_unknown_run_is_one_sentence(run, capsys):
    assert publish.main(["nobody"]) == 2
    assert capsys.readouterr().err.startswith("error: There is no run 'nobody'")
