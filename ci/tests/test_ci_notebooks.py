"""Tidying notebooks, cutting exercises out of solutions, and what a committed notebook must be."""

import copy

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from ci import exercises, hygiene, notebooks
from ci.exercises import cut
from ci.normalize import WIDGET_STATE, WIDGET_VIEW, as_a_terminal_shows, normalize
from ci.normalize import main as normalize_main


def widget_notebook(ids: tuple[str, str, str]) -> nbformat.NotebookNode:
    """A notebook as a run leaves it, with a widget, its layout, and one that no view shows."""
    view, layout, stray = ids
    output = new_output("display_data", data={WIDGET_VIEW: {"model_id": view}, "text/plain": "W"})
    states = {
        stray: {"model_module": "anywidget", "state": {}},
        view: {"model_module": "anywidget", "state": {"layout": f"IPY_MODEL_{layout}"}},
        layout: {"model_module": "@jupyter-widgets/base", "state": {}},
    }
    metadata = {"widgets": {WIDGET_STATE: {"state": states, "version_major": 2}}}
    cell = new_code_cell("w", id="w", execution_count=1, outputs=[output])
    return new_notebook(cells=[cell], metadata=metadata)


def messy() -> nbformat.NotebookNode:
    """A notebook with a trace of everything that a run leaves behind."""
    outputs = [
        new_output("stream", name="stdout", text="10%\r100%\n"),
        new_output("stream", name="stdout", text="done\n"),
        new_output("execute_result", data={"text/plain": "<f at 0x7f01abcd>"}, execution_count=41),
    ]
    cell = new_code_cell("f", id="f", execution_count=41, outputs=outputs)
    cell.metadata.update(papermill={"duration": 1}, execution={}, tags=[])
    injected = new_code_cell("x = 1", id="i", metadata={"tags": ["injected-parameters"]})
    notebook = new_notebook(cells=[injected, cell], metadata={"papermill": {}, "x": 1})
    return notebook


def test_normalize_removes_what_a_run_leaves():
    tidy = normalize(messy(), "a.ipynb")
    assert [cell.id for cell in tidy.cells] == ["f"]
    assert tidy.cells[0].metadata == {}
    assert tidy.cells[0].execution_count == 1
    stream, result = tidy.cells[0].outputs
    assert stream.text == "100%\ndone\n"
    assert result.data["text/plain"] == "<f at 0x0>"
    assert result.execution_count == 1
    assert set(tidy.metadata) == {"kernelspec", "language_info"}


def test_normalize_is_idempotent():
    for notebook in (messy(), widget_notebook(("a" * 32, "b" * 32, "c" * 32))):
        once = normalize(notebook, "a.ipynb")
        text = notebooks.dumps(once)
        assert notebooks.dumps(normalize(once, "a.ipynb")) == text


def test_widget_ids_do_not_depend_on_the_run():
    first = normalize(widget_notebook(("a" * 32, "b" * 32, "c" * 32)), "a.ipynb")
    second = normalize(widget_notebook(("9" * 32, "0" * 32, "1" * 32)), "a.ipynb")
    other = normalize(widget_notebook(("a" * 32, "b" * 32, "c" * 32)), "b.ipynb")
    assert notebooks.dumps(first) == notebooks.dumps(second) != notebooks.dumps(other)
    states = first.metadata["widgets"][WIDGET_STATE]["state"]
    view = first.cells[0].outputs[0].data[WIDGET_VIEW]["model_id"]
    assert len(states) == 2  # the stray is gone
    assert states[view]["state"]["layout"].removeprefix("IPY_MODEL_") in states


@pytest.mark.parametrize(
    ("written", "seen"),
    [("a\r\nb", "a\nb"), ("1\r2\r3\n", "3\n"), ("x\r", "x"), ("", ""), ("a\nb\n", "a\nb\n")],
)
def test_carriage_returns_as_a_terminal_shows_them(written, seen):
    assert as_a_terminal_shows(written) == seen


def test_check_says_what_is_untidy_and_changes_nothing(tmp_path, capsys):
    path = tmp_path / "a.ipynb"
    path.write_text(nbformat.writes(messy()))
    before = path.read_text()
    assert normalize_main(["--check", str(path)]) == 1
    assert "not normalized: a.ipynb" in capsys.readouterr().out
    assert path.read_text() == before
    assert normalize_main([str(path)]) == 0
    assert normalize_main(["--check", str(path)]) == 0


SOLUTION = """\
def double(x):
    "Twice x."
    ### BEGIN SOLUTION
    return 2 * x
    ### END SOLUTION

### BEGIN SOLUTION
### STUB: answer = ...  # twice 21
answer = double(21)
### END SOLUTION
print(answer)"""

EXERCISE = """\
def double(x):
    "Twice x."
    raise NotImplementedError("your turn: replace this line")

answer = ...  # twice 21
print(answer)"""


def solution_notebook() -> nbformat.NotebookNode:
    solved = new_code_cell(SOLUTION, id="s", execution_count=1)
    solved.metadata["tags"] = ["solution", "hide-input", "keep"]
    solved.outputs = [new_output("stream", name="stdout", text="42\n")]
    only = new_code_cell("check(double)", id="o", metadata={"tags": ["solution-only"]})
    remark = new_markdown_cell("It works.", id="m", metadata={"tags": ["solution-only"]})
    return new_notebook(cells=[new_markdown_cell("# Double", id="t"), solved, only, remark])


def test_an_exercise_is_its_solution_with_the_regions_cut():
    solution = solution_notebook()
    before = copy.deepcopy(solution)
    made = exercises.exercise(solution, "01.ipynb")
    assert solution == before
    title, cell = made.cells
    assert title.source == "# Double"
    assert cell.source == EXERCISE
    assert cell.outputs == [] and cell.execution_count is None
    assert cell.metadata["tags"] == ["keep"]


def test_the_book_shows_a_solution_without_its_markers():
    shown = exercises.without_markers(SOLUTION)
    assert "###" not in shown and "return 2 * x" in shown and "..." not in shown


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("### BEGIN SOLUTION\nx", "does not end"),
        ("x\n### END SOLUTION", "did not begin"),
        ("### BEGIN SOLUTION\n### BEGIN SOLUTION\n### END SOLUTION", "inside another"),
    ],
)
def test_broken_regions_are_refused(source, reason):
    with pytest.raises(ValueError, match=reason):
        cut(source)


def test_a_solution_that_hides_nothing_is_refused():
    notebook = new_notebook(cells=[new_code_cell("x = 1", metadata={"tags": ["solution"]})])
    with pytest.raises(ValueError, match="marks no region"):
        exercises.exercise(notebook, "01.ipynb")


@pytest.fixture
def two_folders(tmp_path, monkeypatch):
    for module in (exercises, notebooks):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    source = tmp_path / "solutions" / "01_double.ipynb"
    notebooks.write(source, solution_notebook())
    return source, tmp_path / "exercises" / "01_double.ipynb"


def test_drift_between_exercises_and_solutions_is_found(two_folders, capsys):
    source, target = two_folders
    assert exercises.main(["--check"]) == 1  # not there yet
    assert exercises.main([]) == 0
    assert exercises.main(["--check"]) == 0
    target.write_text(target.read_text().replace("Twice", "Thrice"))
    assert exercises.main(["--check"]) == 1
    assert "exercises/01_double.ipynb is not what `make exercises` makes" in capsys.readouterr().out
    assert exercises.main([]) == 0 and "Twice" in target.read_text()
    source.unlink()
    assert exercises.main(["--check"]) == 1
    assert "has no solution that it comes from" in capsys.readouterr().out


def test_a_solution_not_tagged_or_not_folded_is_named():
    notebook = solution_notebook()
    notebook.cells[1].metadata["tags"] = []
    assert any("not tagged `solution`" in p for p in exercises.problems(notebook))
    notebook.cells[1].metadata["tags"] = ["solution"]
    assert any("tag it `hide-input`" in p for p in exercises.problems(notebook))


def flawed(**cell) -> nbformat.NotebookNode:
    return new_notebook(cells=[new_code_cell(**{"source": "1", "execution_count": 1, **cell})])


def display(data: dict) -> list:
    return [new_output("display_data", data=data)]


@pytest.mark.parametrize(
    ("notebook", "reason"),
    [
        (flawed(execution_count=None), "has not been run"),
        (flawed(source="\n".join("x" * 31)), "has 31 lines"),
        (flawed(outputs=[new_output("error", ename="E", evalue="", traceback=[])]), "an error: E"),
        (flawed(outputs=display({"text/plain": "/home/me/x"})), "a path of the machine"),
        (flawed(outputs=display({"image/svg+xml": "<svg/>"})), "without alternative text"),
        (flawed(outputs=display({WIDGET_VIEW: {"model_id": "x"}})), "only anywidgets work"),
        (new_notebook(cells=[new_markdown_cell("See[^1].")]), "footnote 1 is used"),
    ],
)
def test_hygiene_names_what_is_wrong(notebook, reason, tmp_path):
    path = tmp_path / "a.ipynb"
    notebooks.write(path, normalize(notebook, "a.ipynb"))
    found = hygiene.problems(path)
    assert len(found) == 1 and reason in found[0]


def test_hygiene_accepts_what_is_right(tmp_path):
    good = [
        flawed(source="\n".join("x" * 30)),
        flawed(outputs=display({"image/svg+xml": "<svg><title>a line</title></svg>"})),
        widget_notebook(("a" * 32, "b" * 32, "c" * 32)),
        new_notebook(cells=[new_markdown_cell("See[^1]. `x[^2]`\n\n[^1]: there")]),
    ]
    for notebook in good:
        path = tmp_path / "a.ipynb"
        notebooks.write(path, normalize(notebook, "a.ipynb"))
        assert hygiene.problems(path) == []
