"""Tasks read their schemas, grade replies rightly and wrongly, and mix in a fixed disorder."""

import gzip
import itertools
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pyarrow
import pyarrow.parquet
import pytest

from chatlib.conversation import render
from chatlib.data.world import PROBLEM_KINDS
from chatlib.errors import ChatlibError
from chatlib.tasks import Mixture, chat_tasks, open_task, rl_problems, sft_mixture, world_task
from chatlib.tasks.gsm8k import final_number, solution_parts
from chatlib.tasks.human_eval import program
from chatlib.tasks.letters import letters
from chatlib.tokenizer import Tokenizer

DATA = Path(__file__).parents[3] / "shared" / "data"
GSM8K = {"question": "How many?", "answer": "There are 2*3 = <<2*3=6.00>>6 of them.\n#### 6"}
ARC = {
    "id": "x",
    "question": "What do bees make?",
    "choices": {"text": ["milk", "honey", "silk"], "label": ["1", "2", "3"]},
    "answerKey": "2",
}
MMLU = {"question": "2 + 2?", "subject": "sums", "choices": ["3", "4", "5", "6"], "answer": 1}
SMOLTALK = {
    "messages": [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello."},
    ],
    "source": "small-talk",
}
HUMAN_EVAL = {
    "task_id": "x/0",
    "prompt": 'import math\n\ndef half(n):\n    """Half of n, rounded down."""\n',
    "entry_point": "half",
    "canonical_solution": "    return math.floor(n / 2)\n",
    "test": "def check(candidate):\n    assert candidate(5) == 2\n    assert candidate(4) == 2\n",
}
SMALL = SimpleNamespace(sft_conversations=50, rl_steps=3, rl_questions=4)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(["What do bees make? Honey and wax, A and B and C =A =B."] * 9, 280)


def _write(path: Path, rows: list[dict]) -> Path:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


# --- families ---


@pytest.mark.parametrize("row", [GSM8K, ARC, MMLU, SMOLTALK, {"train": MMLU} | MMLU])
@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".parquet"])
def test_files_are_recognized_by_their_columns(row, suffix, tmp_path, tokenizer):
    task = open_task(_write(tmp_path / f"rows{suffix}", [row, row]))
    assert len(task) == 2
    problem = task[1]
    solution = problem.conversation["messages"][-1]["content"]
    said = solution if isinstance(solution, str) else "".join(p["text"] for p in solution)
    assert problem.check(said) and not problem.check("") and not problem.check("42")
    assert sum(render(tokenizer, problem.conversation)[1]) > 0


def test_gsm8k_calls_become_parts():
    assert solution_parts(GSM8K["answer"]) == [
        {"type": "text", "text": "There are 2*3 = "},
        {"type": "python", "text": "2*3"},
        {"type": "python_output", "text": "6"},  # as the calculator writes it
        {"type": "text", "text": "6 of them.\n#### 6"},
    ]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("#### 18", "18"),
        ("so\n####1,234,500", "1234500"),
        ("#### -3.5", "-3.5"),
        ("#### $70.", "70"),
        ("#### 18\n#### 19", "18"),
        ("the answer is 18", None),
        ("#### none", None),
    ],
)
def test_final_number(text: str, number: str | None):
    assert final_number(text) == number


def test_a_letter_is_the_same_token_in_question_and_answer(tmp_path, tokenizer):
    problem = open_task(_write(tmp_path / "mmlu.jsonl", [MMLU]))[0]
    assert problem.letters == ("A", "B", "C", "D") and problem.answer == "B"
    question = tokenizer.encode(problem.conversation["messages"][0]["content"])
    (sign,) = tokenizer.encode(" =")
    for letter in problem.letters:
        (token,) = tokenizer.encode(letter)
        assert (sign, token) in itertools.pairwise(question)
    assert problem.check("B") and problem.check(" B.") and not problem.check("A or B")


def test_arc_keeps_its_own_labels(tmp_path):
    problem = open_task(_write(tmp_path / "arc.jsonl", [ARC]))[0]
    assert problem.letters == ("1", "2", "3") and problem.answer == "2"
    assert "honey =2" in problem.conversation["messages"][0]["content"]


def test_code_is_taken_from_the_reply():
    prompt, name = HUMAN_EVAL["prompt"], "half"
    body = HUMAN_EVAL["canonical_solution"]
    whole = "def half(n):\n    return n // 2\n"
    fenced = f"Here it is:\n```python\n{whole}```\nand\n```python\nhalf = None\n```"
    assert program(prompt, name, fenced) == f"import math\n{whole}"
    assert program(prompt, name, f"```\n{whole}") == f"import math\n{whole}"  # never closed
    assert program(prompt, name, body) == prompt + body


def test_human_eval_runs_the_code(tmp_path):
    problem = open_task(_write(tmp_path / "code.jsonl", [HUMAN_EVAL]))[0]
    assert problem.check(HUMAN_EVAL["canonical_solution"])
    assert not problem.check("```python\ndef half(n):\n    return n\n```")
    assert not problem.check("I do not know.")
    for early in ("import sys\nsys.exit(0)", "import os\nos._exit(0)", "exit()"):
        assert not problem.check(f"```python\n{early}\ndef half(n):\n    return n\n```")


def test_spelling_and_counting():
    task = letters(["strawberry", "bee"], 40)
    questions = Counter(task[i].conversation["messages"][0]["content"] for i in range(40))
    assert len(questions) > 10
    problem = next(
        task[i] for i in range(40) if task.rows[i]["word"] == "strawberry" and task[i].answer == "3"
    )
    calls = [p["text"] for p in problem.conversation["messages"][1]["content"]]
    assert '"strawberry".count("r")' in calls
    right = "strawberry is spelled s-t-r-a-w-b-e-r-r-y. So the letter r is there 3 times."
    assert problem.check(right)
    assert not problem.check(right.replace("3", "2"))
    assert not problem.check("There are 3.")  # a lucky guess: it has not spelled the word


def test_world_problems():
    task = world_task(60)
    problems = [task[i] for i in range(len(task))]
    assert {problem.kind for problem in problems} == set(PROBLEM_KINDS)
    for problem in problems:
        assert problem.check(problem.conversation["messages"][-1]["content"])
        assert not problem.check("I do not know.")


@pytest.mark.parametrize("name", ["gsm8k/train.jsonl", "gsm8k/test.jsonl"])
def test_real_gsm8k(name: str):
    if not (DATA / name).exists():
        pytest.skip("the optional folder ../shared/data is not there")
    task = open_task(DATA / name)
    assert len(task) == {"gsm8k/train.jsonl": 7473, "gsm8k/test.jsonl": 1319}[name]
    called = 0
    for row in task.rows:
        problem = task.to_problem(row)
        parts = problem.conversation["messages"][1]["content"]
        assert problem.check(parts[-1]["text"]) and not problem.check("#### 1" + problem.answer)
        called += sum(part["type"] == "python" for part in parts)
        assert not any("<<" in part["text"] for part in parts)
    assert called > 3 * len(task)


def test_real_human_eval():
    path = DATA / "humaneval" / "HumanEval.jsonl.gz"
    if not path.exists():
        pytest.skip("the optional folder ../shared/data is not there")
    task = open_task(path)
    assert len(task) == 164
    problem = task[1]
    assert problem.check(problem.conversation["messages"][1]["content"])
    assert not problem.check("```python\n" + task.rows[1]["prompt"] + "    return None\n```")


# --- bad input ---


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.jsonl", b"", "holds no rows"),
        ("a.jsonl", b'{"question": "x", ', "not JSON Lines"),
        ("a.jsonl", b"\xff\xfe\x00", "not JSON Lines"),
        ("a.jsonl", b"[1, 2]\n", "must be a JSON object"),
        ("a.jsonl.gz", b"not gzip at all", "not JSON Lines"),
        ("a.parquet", b"PAR1 but no more", "cannot be read as parquet"),
        ("a.csv", b"question,answer\n", "not a task file"),
        ("a.jsonl", b'{"text": "x"}\n', "have the columns text"),
    ],
)
def test_unreadable_files_are_refused_in_one_sentence(name, content, says, tmp_path):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ChatlibError, match=says):
        open_task(path)


def test_missing_and_unknown_are_refused(tmp_path):
    with pytest.raises(ChatlibError, match="There is no file"):
        open_task(tmp_path / "missing.jsonl")
    with pytest.raises(ChatlibError, match='No task is called "gsm9k"'):
        open_task("gsm9k")


HUB = """
from chatlib.errors import ChatlibError
from chatlib.tasks import open_task
for name in ("GSM8K", "ARC-Easy", "MMLU", "SmolTalk"):
    try:
        task = open_task(name, "train" if name == "MMLU" else "test")
        print(name, len(task), task.baseline, task[1].answer)
    except ChatlibError as error:
        print(error)
"""


def test_data_sets_come_through_the_hub_library(tmp_path):
    """Clones of three data sets stand where the library looks first; the fourth is out of reach."""
    for repo, config, split, row in [
        ("openai/gsm8k", "main", "test", GSM8K),
        ("allenai/ai2_arc", "ARC-Easy", "test", ARC),
        ("cais/mmlu", "auxiliary_train", "train", {"train": MMLU}),
    ]:
        (tmp_path / repo / config).mkdir(parents=True)
        _write(tmp_path / repo / config / f"{split}.parquet", [row, row])
        files = (
            f"- config_name: {config}\n  data_files:\n  - split: {split}\n    path: {config}/*\n"
        )
        (tmp_path / repo / "README.md").write_text(f"---\nconfigs:\n{files}---\n")
    done = subprocess.run(
        [sys.executable, "-c", HUB], cwd=tmp_path, capture_output=True, text=True,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "cache")},
    )  # fmt: skip
    *found, missing = done.stdout.splitlines()
    assert found == ["GSM8K 2 0.0 6", "ARC-Easy 2 0.25 2", "MMLU 2 0.25 B"], done.stderr
    assert missing.startswith("Could not get HuggingFaceTB/smol-smoltalk (test)")


# --- mixtures ---


def test_a_mixture_holds_every_problem_so_many_times(tmp_path):
    gsm8k = [GSM8K | {"question": f"g{i}"} for i in range(5)]
    mmlu = [MMLU | {"question": f"m{i}"} for i in range(7)]
    tasks = [
        open_task(_write(tmp_path / "g.jsonl", gsm8k)),
        open_task(_write(tmp_path / "m.parquet", mmlu)),
    ]

    def questions(mixture: Mixture, start: int = 0) -> list[str]:
        conversations = mixture.conversations(start)
        return [c["messages"][0]["content"].split("\n")[0] for c in conversations]

    mixture = Mixture([(tasks[0], 4), (tasks[1], 2)])
    once = questions(mixture)
    assert len(once) == len(mixture) == 5 * 4 + 7 * 2
    assert Counter(once) == {f"g{i}": 4 for i in range(5)} | {f"m{i}": 2 for i in range(7)}
    assert questions(Mixture([(tasks[0], 4), (tasks[1], 2)]), start=11) == once[11:]
    assert questions(Mixture([(tasks[0], 4), (tasks[1], 2)], seed=1)) != once
    assert once != sorted(once)


def test_each_scale_has_its_mixture(tmp_path):
    conversations, n = sft_mixture(SMALL)
    assert n == 50 and len(list(conversations(0))) == 50
    assert list(conversations(47)) == list(itertools.islice(conversations(0), 47, 50))
    files = [
        str(_write(tmp_path / "g.jsonl", [GSM8K])),
        str(_write(tmp_path / "s.jsonl", [SMOLTALK])),
    ]
    conversations, n = sft_mixture(SMALL, files)
    assert n == len(list(conversations(0))) == 2
    problems = rl_problems(SMALL)
    assert len(problems) == 12
    assert {problem.kind for problem in problems} == {"arithmetic_direct", "arithmetic_word"}
    (problem,) = rl_problems(SMALL, files[0])
    assert problem.answer == "6"
    assert [task.name for task in chat_tasks(SMALL)] == ["world"]
