"""What chapters show things with: source, figures, widgets; and the count of what was shown."""

import ast
import itertools
import json
import subprocess
import sys

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

import chatlib.runs as runs
from chatlib import errors
from chatlib.errors import ChatlibError
from chatlib.notebook import display, plots, widget
from chatlib.notebook.display import MARK, show_cpp, show_source, source_parts
from ci import shown
from ci._venv import ROOT

SAMPLE = '''\
"""Doc."""

import os

# what A is
A = 1
B: int = 2

if A:
    os.getcwd()


@staticmethod
def f():
    """F."""
    return 1


class C:
    """C."""

    x: int = 0

    # before m
    @property
    def m(self):
        return 2

    def n(self):
        return 3
'''


def part(name: str) -> str:
    first, last = source_parts(SAMPLE)[name]
    return "\n".join(SAMPLE.splitlines()[first - 1 : last])


def test_parts_begin_at_comments_and_decorators_and_lose_nothing():
    assert part("top") == '"""Doc."""\n\nimport os'
    assert part("A") == "# what A is\nA = 1"
    assert part("B") == "B: int = 2\n\nif A:\n    os.getcwd()"
    assert part("f").startswith("@staticmethod") and part("f").endswith("return 1")
    assert part("C.top").endswith("x: int = 0")
    assert part("C.m").strip().startswith("# before m")
    assert part("C").endswith("return 3")


@pytest.mark.parametrize("path", sorted((ROOT / "chatlib").rglob("*.py")), ids=lambda p: p.stem)
def test_the_parts_of_every_module_cover_all_its_lines(path):
    text = path.read_text(encoding="utf8")
    if not text.strip():
        return
    parts = source_parts(text)
    classes = {node.name for node in ast.parse(text).body if isinstance(node, ast.ClassDef)}
    full = {n for n, line in enumerate(text.splitlines(), start=1) if line.strip()}
    leaves = {v for name, v in parts.items() if "." in name or name not in classes}
    covered = [n for first, last in leaves for n in range(first, last + 1) if n in full]
    assert sorted(covered) == sorted(full)  # all, and none twice


def test_source_comes_from_the_live_object():
    source = show_source(errors.ChatlibError)
    assert source.code.startswith("class ChatlibError(Exception):")
    assert source.caption == "chatlib/errors.py, lines 4–5"
    assert source._repr_markdown_().startswith("```python\nclass ChatlibError")
    assert str(ROOT) not in source._repr_markdown_() + repr(source)


def test_parts_of_a_class_and_of_a_module():
    method = show_source(runs.Run.create_or_open)
    assert method.code.startswith("@classmethod\ndef create_or_open(")  # outdented
    assert show_source(runs.Run.manifest).code.startswith("@property\ndef manifest")
    two = show_source(runs.Run, "top", "latest")
    assert "class Run:" in two.code and "\n...\n" in two.code and len(two.ranges) == 2
    assert show_source(runs, "STAGES").code.startswith("STAGES = ")
    whole = show_source(errors)
    assert whole.code == (ROOT / "chatlib/errors.py").read_text().strip()


def test_highlighted_lines_are_marked():
    code = show_source(runs, "STAGES", highlight="STAGES").code
    assert code.splitlines()[0].endswith(MARK)
    with pytest.raises(ChatlibError, match="no 'nowhere' to highlight"):
        _ = show_source(runs, "STAGES", highlight="nowhere").code
    with pytest.raises(ChatlibError, match="no part named 'NOTHING'"):
        show_source(runs, "NOTHING")


def chapter(*sources: str) -> nbformat.NotebookNode:
    return new_notebook(cells=[new_code_cell(source) for source in sources])


def test_calls_are_found_without_running_the_notebook():
    notebook = chapter(
        "%matplotlib inline\nimport chatlib.runs as r",
        "from chatlib.errors import ChatlibError as E",
        "from chatlib import runs\nraise SystemExit",
        "show_source(E)",
        "display(show_source(runs.Run, 'top', highlight=('class',)), show_source(r, 'STAGES'))",
        "show_source('chatlib.fused_loss', 'BLOCK')  # to import it takes Triton",
    )
    found = [source for _, source in shown.calls(notebook)]
    names = ("errors", "runs", "runs", "fused_loss")
    assert [s.file for s in found] == [f"chatlib/{name}.py" for name in names]
    assert found[1] == show_source(runs.Run, "top", highlight=("class",))


def test_stale_output_is_found_and_mended():
    source = show_source(errors.ChatlibError)
    data = {"text/markdown": "```python\nold\n```", "text/plain": "old"}
    notebook = chapter("from chatlib import errors", "show_source(errors.ChatlibError)")
    notebook.cells[1].outputs = [new_output("execute_result", data=data)]
    assert shown.refresh(notebook)
    assert notebook.cells[1].outputs[0].data["text/markdown"] == source._repr_markdown_()
    assert not shown.refresh(notebook)


def test_coverage_names_what_is_missing_and_what_is_twice(tmp_path, capsys):
    paths = []
    for name in ("a", "b"):
        paths.append(tmp_path / f"{name}.ipynb")
        cells = chapter("from chatlib import errors", "show_source(errors, 'ChatlibError')")
        paths[-1].write_text(nbformat.writes(cells))
    lines = shown.coverage(paths)
    assert dict(lines[ROOT / "chatlib/errors.py"]) == {n: ["a.ipynb", "b.ipynb"] for n in (4, 5)}
    assert shown.report(lines) == 2
    said = capsys.readouterr().out
    assert "2/3    chatlib/errors.py  a.ipynb, b.ipynb" in said
    assert "not shown: 1\n" in said and "shown twice: 4–5 in a.ipynb, b.ipynb" in said


DRAW = """
import sys, matplotlib
matplotlib.use("agg")
import matplotlib.pyplot as plt
from chatlib.notebook import plots
said = []
plots.display = lambda data, raw: said.append(data)
plots.style()
fig, ax = plt.subplots()
for k in range(3):
    (line,) = ax.plot([0, 1, 2], [k, 2 * k, 1])
    plots.label_line(line, f"line {k}")
plots.label_level(ax, 1.5, "level")
plots.finding("Lines go up")
plots.figure(caption="Three lines.", alt="three lines & one level")
assert not plt.get_fignums()
sys.stdout.write(said[0]["image/svg+xml"] + said[1]["text/markdown"])
"""


def test_a_figure_is_the_same_bytes_each_time_and_says_what_it_shows():
    runs_ = [
        subprocess.run([sys.executable, "-c", DRAW], capture_output=True, text=True, cwd=ROOT)
        for _ in range(2)
    ]
    assert runs_[0].stdout == runs_[1].stdout and runs_[0].returncode == 0, runs_[0].stderr
    svg = runs_[0].stdout
    assert "<title>three lines &amp; one level</title>" in svg
    assert "<dc:date>" not in svg and svg.endswith("**Figure.** Three lines.")
    assert 'id="patch_1"' in svg and "fill: #ffffff" not in svg  # nothing behind the drawing
    with pytest.raises(AssertionError, match="needs both"):
        plots.figure(caption="x", alt="")


def lightness(color: str) -> float:
    """Relative luminance (WCAG 2), 0 to 1."""
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return sum(w * p for w, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_the_first_colors_differ_in_gray_and_all_show_on_white():
    shades = [lightness(c) for c in plots.PALETTE[:4]]
    assert shades == sorted(shades)  # dark to light: an order that survives gray
    gaps = [(b + 0.05) / (a + 0.05) for a, b in itertools.pairwise(shades)]
    assert min(gaps) > 1.25
    assert all(1.05 / (lightness(c) + 0.05) > 2.3 for c in plots.PALETTE)


ROWS = [
    {"step": 0, "val_bpb": 8.0, "sample": "qzx"},
    {"step": 1, "loss": 6.0},
    {"step": 5, "loss": 3.0},
    {"step": 5, "val_bpb": 2.5, "sample": "the bee"},
]


def test_the_loss_explorer_holds_what_the_page_needs():
    explorer = widget.LossExplorer(ROWS, floor=1.0, baselines={"xz": 2.31}, bytes_per_token=2.0)
    assert [look["text"] for look in explorer.data["looks"]] == ["qzx", "the bee"]
    assert explorer.data["train"][0] == [1, round(6 / 0.6931471805599453 / 2, 4)]
    assert explorer.data["levels"] == [
        {"name": "xz", "bpb": 2.31},
        {"name": "entropy floor", "bpb": 1.0, "floor": True},
    ]
    assert "8.00 to 2.50" in explorer.alt and explorer.alt in repr(explorer)
    state = explorer.get_state()
    assert "export default" in state["_esm"] and "cl-widget" in state["_css"]
    json.dumps(state["data"])


def test_samples_can_be_given_apart_and_a_run_never_looked_at_is_refused():
    explorer = widget.LossExplorer(ROWS, samples={5: "other"})
    assert [look["text"] for look in explorer.data["looks"]] == ["", "other"]
    with pytest.raises(AssertionError, match="val_bpb"):
        widget.LossExplorer([{"step": 1, "loss": 2.0}])


def test_the_repository_root_is_found():
    assert display.ROOT == ROOT


DECODE = ("top", "Matrix", "Layer", "Model", "load", "tile", "panels", "multiply", "dot", "sigmoid")
DECODE += ("norm", "rotate_and_norm", "attend", "attention", "decode_rows", "decode")
CPP = {
    "decode.cpp": DECODE,
    "sampling.cpp": ("top", "Sampling", "broken", "candidates", "draw", "pick", "choose"),
    "threads.h": ("top", "Job", "Helpers", "in_parallel"),
}


@pytest.mark.parametrize("file", CPP)
def test_the_parts_of_a_cpp_file_cover_all_its_lines(file):
    lines = (ROOT / "chatlib" / file).read_text(encoding="utf8").splitlines()
    whole = show_cpp(file, *CPP[file])
    shown = {n for first, last in whole.ranges for n in range(first, last + 1)}
    assert not [line for n, line in enumerate(lines, 1) if line.strip() and n not in shown]


def test_a_part_of_a_cpp_file_begins_at_its_comment():
    whole = show_cpp("decode.cpp")
    assert show_cpp("decode.cpp", "attend").code.startswith("// One row's queries")
    assert whole._repr_markdown_().startswith("```cpp\n")
    with pytest.raises(ChatlibError, match="no part named 'decoder'"):
        show_cpp("decode.cpp", "decoder")


def test_parts_with_code_between_them_are_not_joined():
    code = show_source(display, "top", "MARK").code
    assert "ROOT" not in code and "..." in code
