"""Multiple choice: ARC (arXiv 1803.05457) and MMLU (arXiv 2009.03300)."""

from chatlib.tasks.base import Problem, Task, dialog, load_rows


def choice_problem(question: str, choices: list[str], letters: list[str], answer: str) -> Problem:
    """A question with lettered choices, answered by a letter alone.

    The letter follows its choice, which small models find easier to point at, and " =" before it
    keeps it a token of its own: the very token that the answer consists of.
    """
    lines = [f"{choice} ={letter}" for choice, letter in zip(choices, letters, strict=True)]
    prompt = "\n".join([question, *lines, "Answer with one letter."])

    def check(reply: str) -> bool:
        return reply.strip()[:1] == answer

    return Problem(dialog(prompt, answer), answer, check, letters=tuple(letters))


def arc_problem(row: dict) -> Problem:
    """{"question", "choices": {"text", "label"}, "answerKey"}; labels are A-E or 1-5."""
    choices = row["choices"]
    return choice_problem(row["question"], choices["text"], choices["label"], row["answerKey"])


def mmlu_problem(row: dict) -> Problem:
    """{"question", "choices", "answer": index}."""
    row = row.get("train") or row  # the hub nests the rows of auxiliary_train
    letters = ["A", "B", "C", "D", "E", "F", "G", "H"][: len(row["choices"])]
    return choice_problem(row["question"], row["choices"], letters, letters[int(row["answer"])])


def arc(level: str = "Easy", source: str = "allenai/ai2_arc", split: str = "test") -> Task:
    """2,376 easy or 1,172 challenging science questions for testing."""
    return Task(f"ARC-{level}", load_rows(source, f"ARC-{level}", split), arc_problem, 0.25)


def mmlu(source: str = "cais/mmlu", split: str = "test") -> Task:
    """14,042 questions on 57 subjects; for training, 99,842 gathered from other tests."""
    config = "auxiliary_train" if split == "train" else "all"
    return Task("MMLU", load_rows(source, config, split), mmlu_problem, 0.25)
