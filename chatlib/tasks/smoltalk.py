"""SmolTalk: conversations about everything, for fine-tuning only (arXiv 2502.02737)."""

from chatlib.errors import ChatlibError
from chatlib.tasks.base import Problem, Task, load_rows


def problem(row: dict) -> Problem:
    """{"messages": [{"role", "content"}, …]}; nothing but the very same reply counts as right."""
    messages = row["messages"]
    if not messages or messages[-1]["role"] != "assistant":
        raise ChatlibError("A conversation to learn from must end with an assistant message.")
    answer = messages[-1]["content"]
    return Problem({"messages": messages}, answer, lambda reply: reply == answer)


def smoltalk(source: str = "HuggingFaceTB/smol-smoltalk", split: str = "train") -> Task:
    """460,341 conversations for training."""
    return Task("SmolTalk", load_rows(source, None, split), problem)
