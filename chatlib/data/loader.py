"""From documents to batches: best-fit packing, exact resume, and a thread that works ahead.

Documents are dealt to numbered *lanes*: lane l of L reads documents l, l + L, l + 2L, … and packs
them into rows on its own; every step takes the same number of rows from each lane. The lanes are
then shared among the ranks. So one process and eight, with small micro-batches or large ones,
train on the very same rows, step by step.
"""

import base64
import contextlib
import queue
import threading
import weakref
import zlib
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterable, Iterator
from itertools import count
from math import gcd, inf
from typing import Any

import numpy as np
import torch

from chatlib.conversation import render
from chatlib.data.sources import Source
from chatlib.errors import ChatlibError
from chatlib.tokenizer import Tokenizer

LANES = 8  # so that 1, 2, 4 and 8 ranks can take over from each other
PREFETCH = 4  # batches that wait ready

# A stream, from a position on: (the position after these, token sequences (channels, length)).
Stream = Callable[[int], Iterator[tuple[int, list[np.ndarray]]]]


class BestFit:
    """A pool of token sequences, each (channels, length), that gives the largest one that fits.

    Kept sorted by length, then by arrival, so that every question is a binary search.
    """

    def __init__(self, items: Iterable[np.ndarray] = ()):
        self.arrivals = count()
        self.pool: list[tuple[int, int, np.ndarray]] = []
        for item in items:
            self.add(item)

    def __len__(self) -> int:
        return len(self.pool)

    def add(self, item: np.ndarray) -> None:
        """Put a sequence in."""
        insort(self.pool, (item.shape[-1], next(self.arrivals), item))

    def take_largest(self, space: int) -> np.ndarray | None:
        """Take out the longest sequence of at most `space` tokens, the first to arrive on ties."""
        fitting = bisect_right(self.pool, (space, inf))
        if fitting == 0:
            return None
        length = self.pool[fitting - 1][0]
        return self.pool.pop(bisect_left(self.pool, (length,)))[2]

    def take_shortest(self) -> np.ndarray:
        """Take out the shortest sequence, the first to arrive on ties."""
        return self.pool.pop(0)[2]

    def items(self) -> list[np.ndarray]:
        """All sequences; `BestFit(items)` chooses as this pool will."""
        return [item for _, _, item in self.pool]


class Lane:
    """Rows of exactly `size` tokens, packed from a stream that starts again when it ends.

    With `padding` (channels, 1), what no sequence fits into is filled with it; without, the
    shortest sequence is cropped to fill it.
    """

    def __init__(self, stream: Stream, size: int, buffer: int, padding: np.ndarray | None = None):
        self.stream, self.size, self.buffer, self.padding = stream, size, buffer, padding
        self.restore((0, 0, 0, []))

    def restore(self, snapshot: tuple[int, int, int, list[np.ndarray]]) -> None:
        """Go on from what `snapshot` returned."""
        self.rows, self.epoch, self.position, items = snapshot
        self.pool = BestFit(items)
        self.reading = self.stream(self.position)

    def snapshot(self) -> tuple[int, int, int, list[np.ndarray]]:
        """Rows made, epochs finished, next position to read, sequences read but not used."""
        return self.rows, self.epoch, self.position, self.pool.items()

    def row(self) -> np.ndarray:
        """The next row, (channels, size): whole sequences, then what fills the last gap.

        They are found longest first. Left so, a short one would hardly ever open a row, and a model
        would not learn how short texts begin where nothing stands before them, as every prompt
        does. So they take turns: row r opens with the r-th of them, counted around.
        """
        whole, space, filling = [], self.size, []
        while space and not filling:
            self._refill()
            part = self.pool.take_largest(space)
            if part is not None:
                whole.append(part)
                space -= part.shape[1]
            elif self.padding is not None:
                filling = [np.repeat(self.padding, space, axis=1)]
            else:
                filling = [self.pool.take_shortest()[:, :space]]
        turn = self.rows % max(len(whole), 1)
        self.rows += 1
        return np.concatenate([*whole[turn:], *whole[:turn], *filling], axis=1)

    def _refill(self) -> None:
        while len(self.pool) < self.buffer:
            read = next(self.reading, None)
            if read is not None:
                self.position, items = read
                for item in items:
                    self.pool.add(item)
            elif self.position > 0:
                self.epoch, self.position = self.epoch + 1, 0
                self.reading = self.stream(0)
            else:
                raise ChatlibError(
                    "There is too little data to deal out: it takes some dozens of documents."
                )


class Loader:
    """Batches (inputs, targets), int64 (batch, seq_len), made by a thread ahead of their use.

    `state_dict()` is the state right after the batch yielded last, whatever the thread has done
    since: a loader that loads it yields the next batch bit for bit. It is JSON-able. The states of
    all ranks, merged, can be loaded by another number of ranks.
    """

    def __init__(
        self, make_lane: Callable[[int, int], Lane], batch: int, seq_len: int, rank: int,
        world_size: int, micro_batches: int, device: torch.device | str,
    ):  # fmt: skip
        step_rows = batch * micro_batches * world_size
        lanes = gcd(LANES, step_rows)
        lanes = lanes if lanes % world_size == 0 else world_size
        self.lanes = {n: make_lane(n, lanes) for n in range(rank, lanes, world_size)}
        self.snapshots = {n: lane.snapshot() for n, lane in self.lanes.items()}
        self.batch, self.lane_rows, self.device = batch, step_rows // lanes, torch.device(device)
        self.geometry = [lanes, self.lane_rows, seq_len]
        self.stop: Callable[[], None] | None = None

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        return self

    def __next__(self) -> tuple[torch.Tensor, torch.Tensor]:
        if self.stop is None:
            self._start()
        made = self.ready.get()
        if isinstance(made, Exception):
            self.close()
            raise made
        rows, snapshots = made
        self.snapshots |= snapshots
        rows = rows.to(self.device, non_blocking=True)
        return rows[:, 0, :-1].long(), rows[:, -1, 1:].long()

    def _start(self) -> None:
        """Start the thread where the last batch left off. It must not hold on to this object."""
        for number, lane in self.lanes.items():
            lane.restore(self.snapshots[number])
        self.ready: queue.Queue = queue.Queue(PREFETCH)
        stopped = threading.Event()
        arguments = (self.lanes, self.lane_rows, self.batch, self.device, self.ready, stopped)
        self.thread = threading.Thread(target=_work_ahead, args=arguments, daemon=True)
        self.thread.start()
        self.stop = weakref.finalize(self, stopped.set)

    def close(self) -> None:
        """Stop the thread; the next `next` starts it again."""
        if self.stop is not None:
            self.stop()
            self.thread.join()
            self.stop = None

    def state_dict(self) -> dict[str, Any]:
        """Where each of this rank's lanes is."""
        lanes = {f"lane {n}": _encode(snapshot) for n, snapshot in self.snapshots.items()}
        return {"geometry": self.geometry} | lanes

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state. When lanes or rows are cut differently now, begin with the first
        document that no lane had read."""
        self.close()
        if state["geometry"] == self.geometry:
            self.snapshots = {n: _decode(state[f"lane {n}"]) for n in self.lanes}
        else:
            others = [value for key, value in state.items() if key.startswith("lane")]
            epoch, position = max((lane["epoch"], lane["position"]) for lane in others)
            self.snapshots = {n: (0, epoch, position, []) for n in self.lanes}


class BestFitLoader(Loader):
    """Documents packed for pretraining: every row is full and begins with bos.

    A row is filled with the largest waiting document that fits, again and again; when none fits,
    the shortest is cropped to fill it. Which of them opens the row goes by turns. A document longer
    than a row is cut into row-long pieces, each with its own bos. `micro_batches` is how many
    batches each rank takes for one step. `buffer` documents wait in each lane, by default few: many
    would hold the short ones back.
    """

    def __init__(
        self, source: Source, tokenizer: Tokenizer, batch: int, seq_len: int, *, split="train",
        rank=0, world_size=1, micro_batches=1, device="cpu", buffer=0,
    ):  # fmt: skip
        def lane(number: int, lanes: int) -> Lane:
            def stream(start: int):
                for document, text in source.documents(split, number, lanes, start):
                    ids = tokenizer.encode(text)
                    cuts = range(0, len(ids), seq_len)
                    pieces = [[tokenizer.bos, *ids[cut : cut + seq_len]] for cut in cuts]
                    if pieces:
                        yield document + 1, [np.array([p], dtype=np.int32) for p in pieces]

            return Lane(stream, seq_len + 1, buffer or max(seq_len // 16, 8))

        super().__init__(lane, batch, seq_len, rank, world_size, micro_batches, device)


class ConversationLoader(Loader):
    """Conversations packed for fine-tuning: never cut in two, gaps padded, targets -1 where masked.

    `conversations(start)` iterates from position `start`, any of which must be quick to reach. A
    conversation longer than a row keeps its beginning, or is left out if that teaches nothing.
    """

    def __init__(
        self, conversations: Callable[[int], Iterator[dict]], tokenizer: Tokenizer, batch: int,
        seq_len: int, *, rank=0, world_size=1, micro_batches=1, device="cpu", buffer=100,
    ):  # fmt: skip
        padding = np.array([[tokenizer.bos], [-1]], dtype=np.int32)

        def lane(number: int, lanes: int) -> Lane:
            def stream(start: int):
                for position in count(start + (number - start) % lanes, lanes):
                    conversation = next(iter(conversations(position)), None)
                    if conversation is None:
                        return
                    ids, mask = render(tokenizer, conversation, seq_len + 1)
                    labels = np.where(np.array(mask) == 1, ids, -1)
                    if (labels >= 0).any():
                        yield position + 1, [np.array([ids, labels], dtype=np.int32)]

            return Lane(stream, seq_len + 1, buffer, padding)

        super().__init__(lane, batch, seq_len, rank, world_size, micro_batches, device)


def _work_ahead(lanes: dict[int, Lane], lane_rows: int, batch: int, device, ready, stopped) -> None:
    """Make batches until told to stop; hand an error over instead of dying of it.

    The next row comes from the first lane that has not yet given its share to the current step.
    """
    try:
        if device.type == "cuda":
            torch.cuda.set_device(device)
        while not stopped.is_set():
            rows, used = [], set()
            for _ in range(batch):
                number = min(lanes, key=lambda n: (lanes[n].rows // lane_rows, n))
                rows.append(lanes[number].row())
                used.add(number)
            made = torch.from_numpy(np.stack(rows))
            made = made.pin_memory() if device.type == "cuda" else made
            _put(ready, (made, {n: lanes[n].snapshot() for n in used}), stopped)
    except Exception as error:
        _put(ready, error, stopped)


def _put(ready: queue.Queue, item, stopped: threading.Event) -> None:
    while not stopped.is_set():
        with contextlib.suppress(queue.Full):
            return ready.put(item, timeout=0.05)


def _encode(snapshot: tuple) -> dict[str, Any]:
    rows, epoch, position, items = snapshot
    state = {"rows": rows, "epoch": epoch, "position": position}
    tokens = np.concatenate(items, axis=1) if items else np.zeros((1, 0), np.int32)
    packed = base64.b64encode(zlib.compress(tokens.astype("<i4").tobytes(), 1)).decode()
    lengths = [item.shape[1] for item in items]
    return state | {"channels": len(tokens), "lengths": lengths, "tokens": packed}


def _decode(state: dict[str, Any]) -> tuple:
    tokens = np.frombuffer(zlib.decompress(base64.b64decode(state["tokens"])), dtype="<i4")
    tokens = tokens.reshape(state["channels"], -1)
    items = np.split(tokens, np.cumsum(state["lengths"])[:-1], axis=1) if state["lengths"] else []
    return state["rows"], state["epoch"], state["position"], items
