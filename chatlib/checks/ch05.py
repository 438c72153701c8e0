"""Checks of the exercises on fine-tuning: each takes your answer and says what is wrong."""

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from chatlib.checks import Wrong
from chatlib.data.loader import BestFitLoader, ConversationLoader
from chatlib.data.sources import open_source
from chatlib.data.world import World
from chatlib.distributed import Distributed
from chatlib.evaluation import bits_per_byte, document_batches
from chatlib.finetuning import reset_specials
from chatlib.model import GPT
from chatlib.pretraining import optimizer_for
from chatlib.scaling import get_scale, make_plan
from chatlib.tokenizer import Tokenizer
from chatlib.tools import calculate

START, END = "<|python_start|>", "<|python_end|>"
OUTPUT, OUTPUT_END = "<|output_start|>", "<|output_end|>"


def check_targets(answer: Callable[[list[int], list[int]], tuple[list, list]]) -> None:
    """answer(ids, mask) -> (inputs, targets), two lists one shorter than ids."""
    ids, mask = [9, 1, 2, 3, 4], [0, 0, 1, 1, 0]
    got = answer(ids, mask)
    if not isinstance(got, tuple) or len(got) != 2:
        raise Wrong(f"Return two lists, (inputs, targets); you return {got!r}.")
    inputs, targets = map(list, got)
    if len(inputs) != 4 or len(targets) != 4:
        raise Wrong(f"Five ids make four inputs and four targets, not {len(targets)}.")
    if inputs != [9, 1, 2, 3]:
        raise Wrong(f"The inputs of {ids} are all ids but the last; yours are {inputs}.")
    if targets == [1, 2, 3, 4]:
        raise Wrong("You score the user's tokens, too: where the mask is 0 the target is -1.")
    if targets == [-1, -1, 3, 4]:
        raise Wrong("Your mask is one place off: it belongs to the token that is predicted.")
    if targets == [-1, -1, 2, 3]:
        raise Wrong("Your targets are the inputs themselves: each should be the id after it.")
    if targets != [-1, 2, 3, -1]:
        raise Wrong(f"For ids {ids} and mask {mask} the targets are [-1, 2, 3, -1], not {targets}.")
    print("Right: everything is read, and only the assistant's words are scored.")


def check_pack(answer: Callable[[list[int], int], list[list[int]]]) -> None:
    """answer(lengths, size) -> rows, each the lengths put into it, in that order."""
    got = answer([4, 4, 4], 10)
    if not isinstance(got, list) or not all(isinstance(row, list | tuple) for row in got):
        raise Wrong(f"Return a list of rows, each a list of lengths; you return {got!r}.")
    _check_rows(got, [4, 4, 4], 10)
    got = [list(row) for row in answer([2, 5, 7, 3], 10)]
    _check_rows(got, [2, 5, 7, 3], 10)
    if got == [[2, 5], [7, 3]]:
        raise Wrong(
            "You take conversations in the order they came. Take the largest that fits: "
            "of 2, 5, 7 and 3 the first row takes 7, then 3."
        )
    if got != [[7, 3], [5, 2]]:
        raise Wrong(f"Of 2, 5, 7 and 3 in rows of 10 come [7, 3] and [5, 2]; you give {got}.")
    for seed in range(20):
        lengths = np.random.default_rng(seed).integers(1, 65, 80).tolist()
        rows = [list(row) for row in answer(list(lengths), 64)]
        _check_rows(rows, lengths, 64)
        if rows != _best_fit(lengths, 64):
            raise Wrong(
                "The small cases are right, but eighty random lengths are packed otherwise."
            )
    print("Right: whole conversations, and hardly a gap.")


def _check_rows(rows: Sequence[Sequence[int]], lengths: list[int], size: int) -> None:
    if any(sum(row) > size for row in rows):
        raise Wrong(f"A row of yours holds more than {size} tokens: {max(rows, key=sum)}.")
    packed = sorted(n for row in rows for n in row)
    if sum(packed) == sum(lengths) and packed != sorted(lengths):
        raise Wrong("You cut a conversation in two: each must lie in one row, whole.")
    if packed != sorted(lengths):
        raise Wrong(f"From {len(lengths)} conversations you keep {len(packed)}: none may be lost.")


def _best_fit(lengths: list[int], size: int) -> list[list[int]]:
    left, rows = sorted(lengths), []
    while left:
        row: list[int] = []
        while fitting := [n for n in left if n <= size - sum(row)]:
            row.append(fitting[-1])
            left.remove(fitting[-1])
        rows.append(row)
    return rows


def check_step_loss(answer: Callable[[list[tuple[np.ndarray, np.ndarray]]], float]) -> None:
    """answer([(nats (B, T), targets (B, T)), …]) -> the loss of the whole step."""
    nats = np.array([[1.0, 2.0], [3.0, 4.0]])
    every, one, none = (
        np.array(t) for t in ([[5, 5], [5, 5]], [[-1, -1], [-1, 5]], [[-1] * 2] * 2)
    )
    if abs(answer([(nats, every)]) - 2.5) > 1e-9:
        raise Wrong("With every target counted, the loss of one piece is its mean, here 2.5.")
    got = answer([(nats, one)])
    if abs(got - 1.0) < 1e-9 or abs(got - 2.5) < 1e-9 or abs(got - 10.0) < 1e-9:
        raise Wrong(f"One target counts, and it cost 4 nats; you say {got}: skip targets of -1.")
    got = answer([(nats, every), (nats, one)])
    if abs(got - 3.25) < 1e-9:
        raise Wrong(
            "You average the means of the pieces: the lonely target of the second then weighs as "
            "much as the four of the first. Add up all losses, divide once."
        )
    with np.errstate(all="ignore"):
        try:
            empty = answer([(nats, none)])
        except ZeroDivisionError as error:
            raise Wrong("A step without any target divides by zero: its loss is 0.") from error
    if not math.isfinite(empty):
        raise Wrong("A step without any target gives NaN, and would ruin every weight: give 0.")
    if abs(got - 14 / 5) > 1e-9 or empty != 0:
        raise Wrong(f"Five targets cost 14 nats, 2.8 each; you say {got}, and {empty} for none.")
    print("Right: every target weighs the same, and nothing is divided by nothing.")


def check_with_outputs(answer: Callable[[list[str], Callable], list[tuple[str, int]]]) -> None:
    """answer(tokens, calculate) -> [(token, 1 if the model wrote it else 0), …]."""

    def expect(tokens: list[str], right: list[tuple[str, int]], message: str) -> None:
        got = [tuple(pair) for pair in answer(list(tokens), calculate)]
        if got != right:
            raise Wrong(f"For {' '.join(tokens)} you give {got}: {message}")

    call = [START, "6", "*", "7", END]
    forced = [(OUTPUT, 0), ("42", 0), (OUTPUT_END, 0)]
    got = [tuple(pair) for pair in answer([*call, "So"], calculate)]
    if [token for token, _ in got] == [*call, OUTPUT, "42", OUTPUT_END, "So"] and (
        OUTPUT,
        1,
    ) in got:
        raise Wrong("The tool wrote the output, so its mask is 0; yours praises the model for it.")
    written = [(token, 1) for token in call]
    expect([*call, "So"], [*written, *forced, ("So", 1)], "the output follows the closing mark.")
    expect(
        ["2", "+", "3"], [("2", 1), ("+", 1), ("3", 1)], "outside of a call nothing is computed."
    )
    expect(call[:-1], written[:-1], "a call that is not closed is not run.")
    bare = ["2", "+", "2", END]
    expect(bare, [(t, 1) for t in bare], "a closing mark without an opening one calls nothing.")
    broken = [START, "bees", END, "So"]
    expect(broken, [(t, 1) for t in broken], "where calculate gives None the tool stays silent.")
    twice = [START, "1", START, "2", "+", "2", END]
    expect(
        twice,
        [*[(t, 1) for t in twice], (OUTPUT, 0), ("4", 0), (OUTPUT_END, 0)],
        "an opening mark begins a new call and forgets the old one.",
    )
    again = [*call, "and", *call]
    expect(
        again, [*written, *forced, ("and", 1), *written, *forced], "a reply may call several times."
    )
    print("Right: the machine runs, and keeps the books.")


def check_policy_gradient(answer: Callable[[np.ndarray, int, float, float], np.ndarray]) -> None:
    """answer(theta (K,), action, reward, baseline) -> the estimate (K,) of dJ/dtheta."""
    theta = np.array([0.0, 1.0, -1.0])
    p = np.exp(theta) / np.exp(theta).sum()
    chosen = np.eye(3)[1]
    got, right = np.asarray(answer(theta, 1, 1.0, 0.25)), 0.75 * (chosen - p)
    if got.shape != (3,):
        raise Wrong(f"The gradient has an entry for each of the 3 arms; yours is {got.shape}.")
    if np.allclose(got, -right):
        raise Wrong("Your sign is turned: this is a gradient to climb, not a loss to descend.")
    if np.allclose(got, chosen - p):
        raise Wrong("You leave out the baseline: reward minus baseline is the weight.")
    if np.allclose(got, 0.75 * chosen):
        raise Wrong("Raising one arm lowers the others: subtract the probabilities of all arms.")
    if np.allclose(got, 0.75 * chosen * (1 - p)):
        raise Wrong("You move only the arm that was pulled; the scores of all others move, too.")
    if np.allclose(got, 0.75 * (chosen - theta)):
        raise Wrong("Subtract probabilities, not scores: take the softmax of theta first.")
    if not np.allclose(got, right):
        raise Wrong(f"At {theta}, arm 1, reward 1 and baseline 0.25 it is {right}, not {got}.")
    pays = np.array([1.0, 0.2, -0.5])
    exact = p * (pays - p @ pays)
    mean = sum(p[a] * np.asarray(answer(theta, a, pays[a], 0.3)) for a in range(3))
    if not np.allclose(mean, exact):
        raise Wrong("One arm is right, but the average over all arms is not the gradient.")
    print("Right: on average this is the gradient, whatever the baseline.")


def check_leave_one_out(answer: Callable[[np.ndarray], np.ndarray]) -> None:
    """answer(rewards (Q, n)) -> advantages (Q, n)."""
    rewards = np.array([[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 0.0]])
    got = np.asarray(answer(rewards.copy()))
    right = rewards - (rewards.sum(1, keepdims=True) - rewards) / 3
    if np.allclose(got, rewards - rewards.mean(1, keepdims=True)):
        raise Wrong(
            "Your baseline contains the reply itself: take the mean of the *other* replies."
        )
    if np.allclose(got, rewards - (rewards.sum(1, keepdims=True) - rewards) / 4):
        raise Wrong("The others are n - 1 replies: divide their sum by n - 1, not by n.")
    if np.allclose(got, rewards - rewards.mean(0)):
        raise Wrong("You average over questions: a row holds the replies to one question.")
    if np.allclose(got, rewards - rewards.mean()):
        raise Wrong("Your baseline is the mean over all questions: each question has its own.")
    if not np.allclose(got, right):
        raise Wrong(f"For {rewards.tolist()} the advantages are {right.round(3).tolist()}.")
    random = np.random.default_rng(0).random((5, 7))
    expected = random - (random.sum(1, keepdims=True) - random) / 6
    if not np.allclose(answer(random.copy()), expected):
        raise Wrong("It holds for four replies of 0 and 1, but not for seven of any reward.")
    print("Right: a reply is compared with the others, and not with itself.")


def check_pass_at_k(answer: Callable[[int, int, int], float]) -> None:
    """answer(n, right, k) -> chance that k of n replies, drawn without return, hold a right one."""
    got = answer(4, 2, 2)
    if abs(got - 0.75) < 1e-9:
        raise Wrong(
            "You draw with replacement, 1 - (1 - c/n)^k: of four replies, two right, a pair is "
            "all wrong in 1 of 6 cases, not in 1 of 4."
        )
    if abs(got - 0.5) < 1e-9:
        raise Wrong("You give the share of right replies, which is pass@1: k tries may be made.")
    for n, right, k in ((4, 2, 2), (8, 0, 3), (8, 8, 1), (8, 6, 3), (10, 1, 10), (200, 3, 50)):
        expected = 1 - math.comb(n - right, k) / math.comb(n, k)
        if abs(answer(n, right, k) - expected) > 1e-9:
            raise Wrong(f"With {right} of {n} right, pass@{k} is {expected:.4f}.")
    print("Right: the estimate uses every reply, and favors none.")


def check_reward(answer: Callable[[str, str], bool]) -> None:
    """answer(reply, right answer) -> whether the reply's last number is the answer."""
    cases = (
        ("57 - 29 = 28.", "28", True, "the full stop ends the sentence, not the number"),
        ("The answer is 128.", "28", False, "28 is part of 128: compare whole numbers"),
        ("28 nails, I mean 27.", "28", False, "the last number is the answer, not any number"),
        ("1 2 3 … 28 29 30", "28", False, "a reply that lists all numbers is not right"),
        ("That makes 1,200 jars.", "1200", True, "a comma between thousands belongs to the number"),
        ("It is -5.", "5", False, "a minus before a number belongs to it"),
        ("It is -5.", "-5", True, "a minus before a number belongs to it"),
        ("I do not know.", "28", False, "a reply without a number is wrong, and no error"),
        ("", "28", False, "an empty reply is wrong, and no error"),
    )  # fmt: skip
    for reply, right, verdict, why in cases:
        try:
            got = answer(reply, right)
        except (IndexError, AttributeError, ValueError, TypeError) as error:
            raise Wrong(f"For {reply!r} your check fails with {error!r}: {why}.") from error
        if bool(got) != verdict:
            raise Wrong(f"For {reply!r} and the answer {right} you say {bool(got)}: {why}.")
    print("Right: it reads the last number, whole and with its sign, and nothing else.")


Batches = Iterator[tuple[Tensor, Tensor]]


def try_mixture(
    make: Callable[[Batches, Batches, int], tuple[Tensor, Tensor]], model: GPT,
    tokenizer: Tokenizer, steps: int = 10, rows: int = 4,
) -> dict[str, float]:  # fmt: skip
    """Fine-tune `model` on the batches that make(conversations, documents, step) returns.

    Both are iterators over (inputs, targets), each (rows, T). Returns what came of it: "nats" a
    token of held-out replies, "bpb" of held-out documents, and the "tokens" used.
    """
    scale, world, length = get_scale("laptop"), World(), model.config.sequence_len
    reset_specials(model, tokenizer)
    chats = ConversationLoader(lambda i: world.conversations("train", i), tokenizer, rows, length)
    texts = BestFitLoader(open_source("world"), tokenizer, rows, length, buffer=50)
    plan = make_plan(scale, tokenizer.vocab_size)
    optimizer = optimizer_for(model, plan, Distributed())  # ten steps need rates that show
    tokens = 0
    for step in range(steps):
        inputs, targets = make(chats, texts, step)
        model(inputs, targets).backward()
        optimizer.set_schedule(min(1.0, 2 - 2 * step / steps), 0.9, 0.0)
        optimizer.step()
        optimizer.zero_grad()
        tokens += inputs.numel()
    chats.close()
    texts.close()
    return _measure(model, tokenizer) | {"tokens": tokens}


@torch.no_grad()
def _measure(model: GPT, tokenizer: Tokenizer) -> dict[str, float]:
    world = World()
    held_out = ConversationLoader(
        lambda i: world.conversations("validation", i), tokenizer, 8, model.config.sequence_len
    )
    nats = float(model(*next(held_out)))
    held_out.close()
    texts = [world.document("validation", i).text for i in range(40)]
    batches = document_batches(tokenizer, texts, model.config.sequence_len)
    sizes = torch.from_numpy(tokenizer.token_bytes())
    return {"nats": nats, "bpb": bits_per_byte(model, batches, sizes)}


def check_mixture(mine: dict[str, float], plain: dict[str, float]) -> None:
    """mine, plain: what try_mixture returned for your batches, and for conversations alone."""
    kept = f"{mine['bpb']:.2f} bits per byte of documents, against {plain['bpb']:.2f}"
    learned = f"{mine['nats']:.2f} nats a token of replies, against {plain['nats']:.2f}"
    if mine["tokens"] > plain["tokens"]:
        raise Wrong(f"You use {mine['tokens']:,} tokens, {plain['tokens']:,} are fair: share them.")
    if mine["bpb"] > 0.95 * plain["bpb"]:
        raise Wrong(f"It forgets nearly as much: {kept}. Rehearse more of them.")
    if mine["nats"] > 1.6 * plain["nats"]:
        raise Wrong(f"It remembers, and hardly learns to answer: {learned}.")
    print(f"Right: {kept}; and {learned}.")
