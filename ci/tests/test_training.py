"""The loop: its schedule, its equality over processes, its exact resume after being killed."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch

from chatlib import checkpoint
from chatlib.precision import is_slow
from chatlib.report import write_report
from chatlib.runs import Metrics, Run
from chatlib.scaling import get_scale
from chatlib.tokenizer import SPECIAL_TOKENS, Tokenizer
from chatlib.training import Schedule

TINY = ["--scale", "tiny"]


def chatlib(home, *arguments, processes=1, check=True):
    """Run the command line in a process of its own, as a reader does."""
    command = [sys.executable, "-m"]
    if processes > 1:
        command += [
            "torch.distributed.run",
            "--standalone",
            f"--nproc_per_node={processes}",
            "-m",
            "--",
        ]
    environment = os.environ | {
        "CHATLIB_HOME": str(home), "CHATLIB_COMPILE": "0", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    done = subprocess.run(
        [*command, "chatlib", *arguments], env=environment, capture_output=True, text=True
    )
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def curve(home, run, stage="base"):
    rows = Metrics(home / "runs" / run / "metrics" / f"{stage}.jsonl").rows()
    return {row["step"]: row["loss"] for row in rows if "loss" in row}


def weights(home, run, stage="base"):
    return checkpoint.load_model(home / "runs" / run / stage).model_tensors


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A home with a tokenizer and one run that nobody interrupted."""
    folder = tmp_path_factory.mktemp("home")
    for run in ("whole", "killed", "two"):
        chatlib(folder, "tokenizer", "--run", run, *TINY)
    chatlib(folder, "pretrain", "--run", "whole")
    return folder


def test_schedule_warms_up_stays_and_falls():
    schedule = Schedule(steps=100, warmup=10, warmdown=0.5, final_lr=0.1)
    assert [schedule.lr(s) for s in (0, 9, 10, 49)] == [0.1, 1.0, 1.0, 1.0]
    assert schedule.lr(75) == pytest.approx(0.55)
    assert schedule.lr(99) == pytest.approx(0.1 + 0.9 / 50)
    assert schedule.momentum(0) == pytest.approx(0.85)
    assert schedule.decay(0) == 1 and schedule.decay(100) == pytest.approx(0)


def test_attention_reaches_a_quarter_then_half_then_all_of_its_windows(tmp_path):
    schedule = Schedule(steps=90, nearby=2 / 3)
    assert [schedule.reach(s) for s in (0, 29, 30, 59, 60, 89)] == [0.25, 0.25, 0.5, 0.5, 1.0, 1.0]
    assert {Schedule(steps=90).reach(s) for s in range(90)} == {1.0}
    for run, nearby in (("all", "0.0"), ("most", "0.9"), ("again", "0.9")):
        chatlib(tmp_path, "tokenizer", "--run", run, *TINY, "--set", f"nearby={nearby}")
    chatlib(tmp_path, "pretrain", "--run", "all")
    chatlib(tmp_path, "pretrain", "--run", "most")
    child = subprocess.Popen(
        [sys.executable, "-m", "chatlib", "pretrain", "--run", "again"],
        env=os.environ | {"CHATLIB_HOME": str(tmp_path), "CHATLIB_COMPILE": "0",
                          "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    while not checkpoint.steps(tmp_path / "runs" / "again" / "base") and child.poll() is None:
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    chatlib(tmp_path, "pretrain", "--run", "again")
    whole, most = curve(tmp_path, "all"), curve(tmp_path, "most")
    assert whole[1] == pytest.approx(most[1], abs=0.01) and whole[5] != most[5]
    assert curve(tmp_path, "again") == most


def test_the_loss_falls(home):
    losses = curve(home, "whole")
    assert len(losses) == 40
    assert losses[1] > 5 and losses[40] < 4


@pytest.mark.slow
def test_killed_ten_times_it_ends_bit_for_bit_the_same(home):
    rng, kills = random.Random(7), 0
    command = [sys.executable, "-m", "chatlib", "pretrain", "--run", "killed"]
    environment = os.environ | {
        "CHATLIB_HOME": str(home), "CHATLIB_COMPILE": "0", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    metrics = Metrics(home / "runs" / "killed" / "metrics" / "base.jsonl")
    while kills < 10:
        child = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
        before, wanted = len(metrics.rows()), rng.randint(1, 6)
        while child.poll() is None and len(metrics.rows()) < before + wanted:
            time.sleep(0.01)
        if child.poll() is not None:
            break
        child.send_signal(signal.SIGKILL)
        child.wait()
        kills += 1
        if checkpoint.steps(home / "runs" / "killed" / "base")[-1:] == [40]:
            break
    chatlib(home, "pretrain", "--run", "killed")
    assert kills >= 3
    assert curve(home, "killed") == curve(home, "whole")
    ours, theirs = weights(home, "killed"), weights(home, "whole")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_two_processes_train_as_one_does(home):
    chatlib(home, "pretrain", "--run", "two", processes=2)
    one, two = curve(home, "whole"), curve(home, "two")
    # one process reads one micro-batch of eight rows, two read two of four: other data order, so
    # compare what must hold: the same number of steps and tokens, and a loss that falls as far
    assert one.keys() == two.keys()
    assert two[40] == pytest.approx(one[40], rel=0.25)


def test_ctrl_c_leaves_a_checkpoint_and_says_how_to_go_on(home):
    chatlib(home, "tokenizer", "--run", "stopped", *TINY)
    command = [sys.executable, "-u", "-m", "chatlib", "pretrain", "--run", "stopped"]
    environment = os.environ | {"CHATLIB_HOME": str(home), "CHATLIB_COMPILE": "0"}
    child = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    metrics = Metrics(home / "runs" / "stopped" / "metrics" / "base.jsonl")
    while len([row for row in metrics.rows() if "loss" in row]) < 3 and child.poll() is None:
        time.sleep(0.01)
    child.send_signal(signal.SIGINT)
    _, said = child.communicate(timeout=60)
    assert child.returncode == 130
    assert "the same command carries on" in said
    assert checkpoint.steps(home / "runs" / "stopped" / "base")


def test_later_stages_follow_and_refuse_to_come_first(home, monkeypatch):
    refused = chatlib(home, "sft", "--run", "killed2", *TINY, check=False)
    assert refused.returncode == 2 and "no tokenizer yet" in refused.stderr
    chatlib(home, "sft", "--run", "whole")
    chatlib(home, "rl", "--run", "whole")
    chatlib(home, "eval", "--run", "whole", "--max-items", "24")
    monkeypatch.setenv("CHATLIB_HOME", str(home))
    run = Run.open("whole")
    assert {"base", "sft", "rl"} <= run.manifest.keys()
    assert (run.path / "eval" / "rl.json").exists()


def test_a_slow_processor_is_fine_tuned_on_fewer_conversations(tmp_path, monkeypatch):
    fewer = ["--set", "train_tokens=4096", "--set", "sft_conversations_slow=60"]
    chatlib(tmp_path, "tokenizer", "--run", "few", *TINY, *fewer)
    chatlib(tmp_path, "pretrain", "--run", "few")
    chatlib(tmp_path, "sft", "--run", "few")
    monkeypatch.setenv("CHATLIB_HOME", str(tmp_path))
    read = Run.open("few").manifest["sft"]["conversations"]
    assert read == (60 if is_slow("cpu") else get_scale("tiny").sft_conversations)


def test_a_stage_that_is_done_keeps_its_time_and_speed(home, monkeypatch):
    monkeypatch.setenv("CHATLIB_HOME", str(home))
    before = Run.open("whole").manifest["base"]
    chatlib(home, "pretrain", "--run", "whole")  # finds nothing left to do
    run = Run.open("whole")
    for name in ("steps", "tokens", "seconds", "tokens_per_s"):
        assert run.manifest["base"][name] == before[name] > 0
    chatlib(home, "eval", "--run", "whole", "--stage", "base")
    run.update_manifest(notebooks={"1_tokenizer": 6.0, "2_pretrain": 0.1})  # as after a stop
    report = write_report(run)
    assert report["tokens_per_s"] == before["tokens_per_s"]
    assert report["minutes"]["1_tokenizer"] == pytest.approx(0.1)
    assert 60 * report["minutes"]["2_pretrain"] > before["seconds"] > 0.2


def test_a_readers_own_text_conversations_and_problems(tmp_path):
    prose = "The lighthouse keeper counted the ships, and the ships counted on her. " * 40
    texts, home = tmp_path / "texts", tmp_path / "home"
    texts.mkdir()
    for name in ("one", "two", "three"):
        (texts / f"{name}.txt").write_text(f"Chapter {name}.\n\n{prose}\n\n" * 8)
    rows = [
        {"question": f"What is {a} + {a}?", "answer": f"{2 * a} #### {2 * a}"} for a in range(40)
    ]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    chats = [
        {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]}
    ]
    (tmp_path / "chat.jsonl").write_text("".join(json.dumps(chat) + "\n" for chat in chats * 60))
    own = ["--run", "own"]
    corpus = ["--scale", "tiny", "--corpus", str(texts), "--set", "vocab_size=300"]
    chatlib(home, "tokenizer", *own, *corpus)
    chatlib(home, "pretrain", *own)
    said = chatlib(home, "eval", *own)
    assert "bits per byte" in said.stdout and "floor" not in said.stdout
    data = [str(tmp_path / "chat.jsonl"), str(tmp_path / "sums.jsonl")]
    chatlib(home, "sft", *own, "--data", data[0], "--data", data[1])
    chatlib(home, "rl", *own, "--data", data[1])
    assert {1, 2} == set(curve(home, "own", "rl"))


def test_a_second_process_on_the_same_stage_is_refused(home, monkeypatch):
    monkeypatch.setenv("CHATLIB_HOME", str(home))
    with Run.open("whole").lock("base"):
        done = chatlib(home, "pretrain", "--run", "whole", check=False)
    assert done.returncode == 2 and "already working" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["pretrain", "--scale", "huge"], "no scale"),
        (["pretrain", "--run", "bad/name", "--scale", "tiny"], "cannot name a run"),
        (["tokenizer", "--run", "x1", "--scale", "tiny", "--corpus", "no/such/folder"], "corpus"),
        (["tokenizer", "--run", "x2", "--scale", "tiny", "--set", "vocab_size=100"], "vocab"),
        (["tokenizer", "--run", "x3", "--scale", "tiny", "--set", "depth=0"], "depth"),
        (["pretrain", "--run", "whole", "--set", "depth=3"], "choose another run name"),
        (["eval", "--run", "nobody"], "no run"),
        (["chat", "--run", "killed9"], "no run"),
        (["plan", "--scale", "tiny", "--set", "depth"], "NAME=VALUE"),
    ],
)
def test_mistakes_get_one_sentence_and_exit_code_2(home, arguments, word):
    done = chatlib(home, *arguments, check=False)
    assert done.returncode == 2, done.stdout + done.stderr
    assert word in done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_fine_tuning_lets_the_special_tokens_begin_anew(home):
    settings = ["--run", "still", "--set", "sft_lr=0.0"]  # so that nothing else moves
    chatlib(home, "tokenizer", *settings, *TINY)
    for stage in "pretrain", "sft":
        chatlib(home, stage, "--run", "still")
    tokenizer = Tokenizer.load(home / "runs" / "still" / "tokenizer.json")
    marks = [tokenizer.special(name) for name in SPECIAL_TOKENS if name != "<|bos|>"]
    before, after = weights(home, "still"), weights(home, "still", "sft")
    assert len(marks) == 8 and before["head.weight"][marks].norm(dim=1).min() > 0.1
    before["head.weight"][marks] = 0.0
    assert all(torch.equal(before[name], after[name]) for name in before)
