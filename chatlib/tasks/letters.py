"""Spelling and letter counting, which a model that reads tokens has to learn one word at a time."""

import random
import re

from chatlib.tasks.base import Problem, Task, dialog

QUESTIONS = (
    "How many {letter} are in {word}?",
    "How often does the letter {letter} appear in {word}?",
    "Count the letter {letter} in the word {word}.",
)


def problem(row: dict) -> Problem:
    """{"word", "letter", "question"}: spell the word, count, and let the calculator confirm it."""
    word, letter = row["word"], row["letter"]
    count = str(word.count(letter))
    spelled = f"{word} is spelled {'-'.join(word)}. "
    solution = [
        {"type": "text", "text": spelled},
        {"type": "python", "text": f'"{word}".count("{letter}")'},
        {"type": "python_output", "text": count},
        {"type": "text", "text": f"So the letter {letter} is there {count} times."},
    ]

    def check(reply: str) -> bool:
        return re.findall(r"\d+", reply)[-1:] == [count] and "-".join(word) in reply

    return Problem(dialog(row["question"].format(**row), solution), count, check)


def letters(words: list[str], count: int, seed: int = 0) -> Task:
    """`count` problems on words drawn from `words`; three in four ask for a letter of the word."""
    rng = random.Random(seed)
    rows = []
    for _ in range(count):
        word = rng.choice(words)
        letter = rng.choice(word if rng.random() < 0.75 else "abcdefghijklmnopqrstuvwxyz")
        rows.append({"word": word, "letter": letter, "question": rng.choice(QUESTIONS)})
    return Task("Letters", rows, problem)
