"""What the tests of the exercises' checks share."""

import re
from collections.abc import Callable

import pytest

from chatlib.checks import Wrong
from ci import notebooks
from ci._venv import ROOT


def solutions(chapter: str) -> dict:
    """What the solution cells of a chapter define, up to the open-ended exercise."""
    names: dict = {}
    for cell in notebooks.read(ROOT / "solutions" / f"{chapter}.ipynb").cells:
        if "### STUB: # your experiment" in cell.source:
            break
        if cell.cell_type == "code" and {"solution", "setup"} & set(notebooks.tags(cell)):
            exec(cell.source, names)
    return names


def passes(check: Callable, answer: object, capsys) -> None:
    check(answer)
    assert capsys.readouterr().out.startswith("Right: ")


def fails(check: Callable, answer: object, message: str) -> None:
    with pytest.raises(Wrong, match=re.escape(message)):
        check(answer)
