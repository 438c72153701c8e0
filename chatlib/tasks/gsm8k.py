"""GSM8K: grade-school word problems with worked solutions (arXiv 2110.14168)."""

import re

from chatlib.tasks.base import Problem, Task, dialog, load_rows
from chatlib.tools import calculate

FINAL = re.compile(r"#### *\$?(-?[\d.,]*\d)")
CALL = re.compile(r"<<([^<>=]+)=([^<>]*)>>")


def final_number(text: str) -> str | None:
    """The number after ####, without thousands separators; None where there is none."""
    found = FINAL.search(text)
    return found.group(1).replace(",", "") if found else None


def solution_parts(answer: str) -> list[dict]:
    """A solution as parts: `<<48/2=24>>` in it becomes a calculator call and its output.

    The output is what our calculator gives, as it will be when the model calls it.
    """
    parts, position = [], 0
    for call in CALL.finditer(answer):
        parts.append({"type": "text", "text": answer[position : call.start()]})
        expression, written = call.groups()
        parts.append({"type": "python", "text": expression})
        parts.append({"type": "python_output", "text": calculate(expression) or written})
        position = call.end()
    parts.append({"type": "text", "text": answer[position:]})
    return [part for part in parts if part["text"]]


def problem(row: dict) -> Problem:
    """{"question", "answer"} -> a problem checked by its final number."""
    answer = final_number(row["answer"])

    def check(reply: str) -> bool:
        number = final_number(reply)
        return number is not None and number == answer

    return Problem(dialog(row["question"], solution_parts(row["answer"])), answer or "", check)


def gsm8k(source: str = "openai/gsm8k", split: str = "test") -> Task:
    """7,473 training problems, 1,319 for testing."""
    return Task("GSM8K", load_rows(source, "main", split), problem)
