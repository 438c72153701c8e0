"""HumanEval: write a function from its docstring, checked by running it (arXiv 2107.03374)."""

import re
import secrets

from chatlib.sandbox import run_python
from chatlib.tasks.base import Problem, Task, dialog, load_rows

FENCED = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL)
IMPORT = re.compile(r"^(?:from|import) .*$", re.MULTILINE)


def program(prompt: str, entry_point: str, reply: str) -> str:
    """The code to run: the first fenced block of the reply, or all of it where nothing is fenced.

    A reply may repeat the function or only go on after the prompt.
    """
    block = FENCED.search(reply)
    code = block.group(1) if block else reply
    if re.search(rf"^def {re.escape(entry_point)}\b", code, re.MULTILINE):
        return "\n".join([*IMPORT.findall(prompt), code])
    return prompt + code


def problem(row: dict) -> Problem:
    """{"prompt", "entry_point", "test", "canonical_solution"} -> a problem checked by its tests."""

    def check(reply: str) -> bool:
        code = program(row["prompt"], row["entry_point"], reply)
        passed = secrets.token_hex(8)  # so that to exit before the tests is not to pass them
        end = f"check({row['entry_point']})\nprint({passed!r})\n"
        return run_python(f"{code}\n{row['test']}\n{end}").output.endswith(f"{passed}\n")

    solution = row["prompt"] + row["canonical_solution"]
    question = f"Complete this Python function.\n```python\n{row['prompt'].rstrip()}\n```"
    return Problem(dialog(question, f"```python\n{solution}```"), solution, check)


def human_eval(source: str = "openai/openai_humaneval", split: str = "test") -> Task:
    """164 problems, for testing only."""
    return Task("HumanEval", load_rows(source, None, split), problem)
