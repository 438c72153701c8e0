"""Checks of the exercises on inference. Each says what is wrong with an answer, or prints Right."""

import json
import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from chatlib.checks import Wrong
from chatlib.checks.compare import normal
from chatlib.model import GPTConfig
from chatlib.scaling import count_parameters


def _probabilities(answer: object, size: int, call: str) -> Tensor:
    """The answer, if it is a tensor of `size` probabilities that sum to 1."""
    if not isinstance(answer, Tensor) or answer.shape != (size,):
        raise Wrong(f"{call} must be a tensor of shape ({size},); yours is {answer!r:.60}.")
    if not math.isclose(answer.sum().item(), 1, abs_tol=1e-4):
        raise Wrong(
            f"{call} sums to {answer.sum():.3f}: scale up what is left, so that it sums to 1."
        )
    return answer


def check_nucleus(nucleus: Callable) -> None:
    """nucleus(probs (V,), p) -> (V,), in the order of probs."""
    probs = torch.tensor([0.1, 0.4, 0.05, 0.2, 0.25])
    for p, stay in ((0.7, {1, 3, 4}), (0.6, {1, 4}), (0.0, {1}), (1.0, {0, 1, 2, 3, 4})):
        call = f"nucleus([0.1, 0.4, 0.05, 0.2, 0.25], {p})"
        answer = nucleus(probs.clone(), p)
        if p == 0 and isinstance(answer, Tensor) and not answer.nan_to_num().any():
            raise Wrong("At p = 0 you keep nothing, and there is nothing to draw: keep the best.")
        answer = _probabilities(answer, 5, call)
        kept = {i for i in range(5) if answer[i] > 0}
        if len(kept) == len(stay) and kept != stay:
            raise Wrong(
                f"{call} keeps {len(kept)} tokens, the right number, but not the best ones: rank "
                "first, and put them back in the order they came in."
            )
        if len(kept) == len(stay) - 1:
            raise Wrong(
                f"{call}: those you keep hold only {probs[list(kept)].sum():.2f}. The token that "
                "takes the sum to p or past it stays."
            )
        if kept != stay:
            raise Wrong(f"{call} must keep tokens {sorted(stay)}; yours keeps {sorted(kept)}.")
        ratio = answer[list(stay)] / probs[list(stay)]
        if not torch.allclose(ratio, ratio[0].expand_as(ratio)):
            raise Wrong(f"{call}: those that stay keep their proportions; divide by their sum.")
    print("Right: the smallest set that holds p, in its old order, summing to 1.")


def check_pick(pick: Callable) -> None:
    """pick(probs: list, dart in [0, 1)) -> int."""
    probs = [0.0, 0.5, 0.0, 0.3, 0.2]
    cases = {0.0: 1, 0.25: 1, 0.4999: 1, 0.5: 3, 0.79: 3, 0.81: 4, 1 - 2**-53: 4}
    for dart, right in cases.items():
        try:
            answer = pick(list(probs), dart)
        except IndexError:
            raise Wrong(
                f"The dart {dart} falls off the end: the last sum may round to below it."
            ) from None
        if answer is None:
            raise Wrong(f"For the dart {dart} you return nothing; it hits the last token.")
        if probs[answer] == 0:
            raise Wrong(
                f"The dart {dart} picks token {answer}, whose probability is 0: a token owns the "
                "line from the sum before it up to, but not including, the sum after it."
            )
        if answer != right:
            raise Wrong(f"The dart {dart} lands on token {right}; you say {answer}.")
    tenths = [0.1] * 10  # adds up to 0.9999999999999999
    try:
        last = pick(tenths, 1 - 2**-53)
    except IndexError:
        last = None
    if last != 9:
        raise Wrong(
            "Ten times 0.1 adds up to a little less than 1 in floating point, and a dart can land "
            "behind it. Then the last token is meant."
        )
    print("Right: every dart hits a token, and none hits one of probability 0.")


def check_slide(slide: Callable) -> None:
    """slide(keys (n, D), values (n, D), k (1, D), v (1, D), window) -> (keys, values)."""
    q, k, v = (normal(12, 4, seed=s) for s in (1, 2, 3))
    for window in (3, 0, 20):
        keys, values = torch.empty(0, 4), torch.empty(0, 4)
        for t in range(12):
            keys, values = slide(keys, values, k[t : t + 1], v[t : t + 1], window)
            due = min(t, window) + 1
            _check_lengths(len(keys), len(values), due, t, window)
            first = t + 1 - due
            right = (q[t] @ k[first : t + 1].T / 2).softmax(-1) @ v[first : t + 1]
            if not torch.allclose((q[t] @ keys.T / 2).softmax(-1) @ values, right, atol=1e-5):
                raise Wrong(
                    f"window {window}: after token {t} you keep {due} keys and values, but not "
                    f"those of tokens {first} to {t}, or not in step with each other."
                )
    print("Right: your cache never holds more than the window admits, and attention is the same.")


def _check_lengths(keys: int, values: int, due: int, t: int, window: int) -> None:
    at = f"window {window}: after token {t}"
    if keys != values:
        raise Wrong(f"{at} you keep {keys} keys and {values} values; drop them together.")
    if keys == t + 1 > due:
        raise Wrong(f"{at} you still keep all {keys} keys: drop what the newest token cannot see.")
    if keys == due - 1:
        raise Wrong(f"{at} you keep {keys} keys: a window of w admits w + 1, itself included.")
    if keys != due:
        raise Wrong(f"{at} there must be {due} keys; you keep {keys}.")


def check_step_bytes(step_bytes: Callable) -> None:
    """step_bytes(config, rows, length) -> bytes that one decode step fetches, in bfloat16."""
    for heads in (12, 3):
        config = GPTConfig(32_768, 24, 12, heads, 1536, 2048)
        for rows, length in ((1, 100), (1, 2000), (8, 2000)):
            _check_bytes(step_bytes(config, rows, length), config, rows, length)
    print("Right: weights once for all rows, and for each row the keys that its layers can see.")


def _check_bytes(answer: float, config: GPTConfig, rows: int, length: int) -> None:
    weights = 2 * count_parameters(config).scaling
    seen = sum(min(window, length) for window in config.windows())
    a_key = 2 * 2 * config.n_kv_head * config.head_dim  # keys and values, two bytes each
    right = weights + rows * seen * a_key
    tables = 2 * count_parameters(config).total - weights
    slips = {
        "You fetch the weights once for each row; a batch shares them.": rows * weights
        + rows * seen * a_key,
        "You leave out the caches.": weights,
        "You count the cache of one row only; every row has its own.": weights + seen * a_key,
        "You count keys and forget values (or values and forget keys).": right
        - rows * seen * a_key / 2,
        "You let every layer read the whole cache; short windows read less.": weights
        + rows * config.n_layer * length * a_key,
        "You give keys as many heads as queries; look at n_kv_head.": weights
        + rows * seen * 4 * config.n_head * config.head_dim,
        "Embedding tables are looked up: one row of them is fetched, not all.": right + tables,
        "A number in bfloat16 has two bytes.": right / 2,
        "The weights are in bfloat16 as well, two bytes each.": right - weights / 2,
    }
    for message, slip in slips.items():
        if math.isclose(answer, slip, rel_tol=1e-6) and not math.isclose(slip, right, rel_tol=1e-6):
            raise Wrong(message)
    if not math.isclose(answer, right, rel_tol=0.002):
        raise Wrong(
            f"{rows} rows of {length} tokens with {config.n_kv_head} key heads fetch {right:,.0f} "
            f"bytes a step; you say {answer:,.0f}."
        )


def check_serve(serve: Callable) -> None:
    """serve(requests, rows): requests are (arrival, tokens), in order -> the step each ends at."""
    cases = [
        ([(0, 3), (0, 5), (0, 2)], 2),
        ([(0, 2), (0, 9), (0, 3), (0, 4), (0, 8), (0, 2)], 2),
        ([(0, 4), (6, 1), (6, 3), (7, 1)], 1),
        ([(2, 5), (3, 1), (20, 2)], 4),
    ]
    for requests, rows in cases:
        answer = list(serve(list(requests), rows))
        right = _ends(requests, rows)
        if answer == right:
            continue
        call = f"serve({requests}, {rows})"
        if len(answer) != len(requests):
            raise Wrong(f"{call} must give one end for each of {len(requests)} requests.")
        for (arrival, tokens), end in zip(requests, answer, strict=True):
            if end < arrival + tokens:
                raise Wrong(
                    f"{call}: the request of step {arrival} with {tokens} tokens cannot end at "
                    f"{end}; it takes a step a token, from its arrival on."
                )
        if answer == _in_groups(requests, rows):
            raise Wrong(
                f"{call}: you wait for a whole group. Give a row to the next when it is free."
            )
        raise Wrong(f"{call} must be {right}, first come, first served; yours is {answer}.")
    print(
        "Right: rows never stand empty while somebody waits, and nobody is served before arriving."
    )


def _ends(requests: list[tuple[int, int]], rows: int) -> list[int]:
    free, ends = [0] * rows, []
    for arrival, tokens in requests:
        row = free.index(min(free))
        free[row] = max(free[row], arrival) + tokens
        ends.append(free[row])
    return ends


def _in_groups(requests: list[tuple[int, int]], rows: int) -> list[int]:
    now, ends = 0, []
    for i in range(0, len(requests), rows):
        group = requests[i : i + rows]
        now = max(now, *(arrival for arrival, _ in group))
        ends += [now + tokens for _, tokens in group]
        now = max(ends[i:])
    return ends


def check_events(events: Callable) -> None:
    """events(chunks of bytes) yields what each event's data holds, parsed."""
    said = [{"text": "Zoé"}, {"text": " is 🐝\ndata: x"}, {"text": "."}]
    lines = [f"data: {json.dumps(item, ensure_ascii=False)}\n\n" for item in said]
    wire = "".join([*lines, "data: [DONE]\n\n"]).encode()
    for size in (len(wire), 64, 7, 1):

        def chunks(size: int = size) -> Iterator[bytes]:
            yield from (wire[i : i + size] for i in range(0, len(wire), size))

        try:
            answer = list(events(chunks()))
        except UnicodeDecodeError:
            raise Wrong(
                f"In chunks of {size} bytes a letter is cut in two: cut out whole events first, "
                "and decode those."
            ) from None
        except json.JSONDecodeError as error:
            if "DONE" in error.doc:
                raise Wrong("[DONE] is no JSON; it says that nothing follows.") from None
            raise Wrong(
                f"In chunks of {size} bytes you parse {error.doc[:30]!r}, which is not whole: keep "
                "what has no empty line behind it until more comes."
            ) from None
        if len(answer) < len(said):
            raise Wrong(
                f"In chunks of {size} bytes you give {len(answer)} of {len(said)} events: do not "
                "throw away a beginning whose end has not come yet."
            )
        if answer != said:
            raise Wrong(f"In chunks of {size} bytes you read {answer}; sent was {said}.")
    print("Right: however the network cuts it, every event arrives once and whole.")


def check_accept(accept: Callable) -> None:
    """accept(probs (V,), guess, dart, generator) -> (token, accepted)."""
    probs, guess, n = torch.tensor([0.15, 0.5, 0.05, 0.3]), 3, 20_000
    generator = torch.Generator().manual_seed(0)
    darts = torch.rand(n, generator=torch.Generator().manual_seed(1)).tolist()
    drawn = [accept(probs.clone(), guess, dart, generator) for dart in darts]
    if not all(isinstance(pair, tuple) and len(pair) == 2 for pair in drawn):
        raise Wrong("Return two things: the token, and whether the guess was accepted.")
    for token, accepted in drawn:
        if accepted and token != guess:
            raise Wrong(f"You accept the guess {guess} and return token {token}.")
    rate = sum(bool(accepted) for _, accepted in drawn) / n
    if abs(rate - 0.7) < 0.02:
        raise Wrong("You accept what you should reject: a dart below the probability accepts.")
    if abs(rate - 0.3) > 0.02:
        raise Wrong(f"The guess has probability 0.30; you accept it in {rate:.0%} of the cases.")
    counts = torch.bincount(torch.tensor([int(token) for token, _ in drawn]), minlength=4) / n
    again = any(int(token) == guess and not accepted for token, accepted in drawn)
    if again:
        raise Wrong(
            "After a rejection you may draw the guess again, so it comes up in "
            f"{counts[guess]:.0%} of the cases instead of 30%: take it out of the draw."
        )
    if (counts - probs).abs().max() > 0.02:
        raise Wrong(
            f"The tokens come with shares {[round(c, 2) for c in counts.tolist()]} instead of "
            f"{[round(p, 2) for p in probs.tolist()]}: after a rejection, draw from the others in "
            "proportion to their probabilities."
        )
    print("Right: the guess saves time, and the distribution is that of the model, exactly.")


def check_grouped(quantize: Callable) -> None:
    """quantize(weight (out, in), bits, group) -> the weight as it comes back."""
    weight = normal(6, 64) * torch.tensor([0.01, 0.1, 1, 1, 1, 10])[:, None]
    weight[3, 40] = 50.0  # an outlier
    for bits, group in ((8, 64), (4, 16), (3, 16)):
        call = f"quantize(weight, {bits}, {group})"
        answer = quantize(weight.clone(), bits, group)
        if not isinstance(answer, Tensor) or answer.shape != weight.shape:
            raise Wrong(f"{call} must have the shape of the weight, (6, 64).")
        blocks, most = weight.view(6, -1, group), 2 ** (bits - 1) - 1
        step = blocks.abs().amax(-1, keepdim=True) / most
        in_steps = answer.view(6, -1, group) / step
        error = (blocks / step - in_steps).abs().amax((1, 2))
        if error.max() > 0.55:
            raise Wrong(
                f"{call}: in row {int(error.argmax())} an error is {error.max():.1f} steps, more "
                f"than half a one. Each group of {group} numbers in a row has a step of its own, "
                f"its largest magnitude over {most}; round to the nearest."
            )
        if (in_steps - in_steps.round()).abs().max() > 0.05:
            raise Wrong(
                f"{call}: numbers must come back as whole multiples of their group's step, its "
                f"largest magnitude over {most}, for {bits} bits hold {2 * most + 1} values."
            )
    print("Right: every number is within half a step, and an outlier spoils only its own group.")
