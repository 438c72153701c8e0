"""Continuous batching: one thread owns the model, requests join and leave between its steps.

A request never waits for another to finish while a row is free, and each live row gets one token a
step. Readers run at their own pace: tokens wait in each stream's own queue, which holds at most
the reply's max_tokens, so that a slow reader costs a little memory and no time.
"""

import asyncio
import contextlib
import logging
import queue
import threading
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterator

from chatlib.engine import Batch, Engine, Reply, Token
from chatlib.errors import ChatlibError

log = logging.getLogger("chatlib")


class QueueFull(ChatlibError):
    """More requests are waiting than the scheduler keeps."""


class Stream:
    """A reply on its way to one reader. Iterate over it, in a thread or in an event loop.

    reply.finish tells how it ended: "stop", "length", "cancelled", or "error" if the model failed.
    """

    def __init__(self, reply: Reply) -> None:
        self.reply = reply
        self.tokens: queue.SimpleQueue[Token | None] = queue.SimpleQueue()  # None ends it
        self.news = asyncio.Event()

    def cancel(self) -> None:
        """Nobody is reading any more: free the row at the next step."""
        self.reply.finish = self.reply.finish or "cancelled"

    def __iter__(self) -> Iterator[Token]:
        return iter(self.tokens.get, None)

    async def __aiter__(self) -> AsyncIterator[list[Token]]:
        """All tokens that have come since the last look, as a list; a slow reader gets more."""
        ended = False
        while not ended:
            await self.news.wait()
            self.news.clear()
            fresh = [self.tokens.get_nowait() for _ in range(self.tokens.qsize())]
            ended = None in fresh
            if found := [token for token in fresh if token]:
                yield found


class Scheduler:
    """Runs an engine for many readers at once.

    rows: how many replies are written together; room: how many more may wait.
    loop: the event loop to wake for `async for`; without one, iterate in threads.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        rows: int = 32,
        room: int = 128,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.engine, self.room, self.loop = engine, room, loop
        self.batch = Batch(engine, rows)
        self.waiting: deque[Stream] = deque()
        self.live: dict[Reply, Stream] = {}
        self.counts: Counter[str] = Counter()  # requests, tokens, steps, and how replies ended
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="scheduler", daemon=True)
        self._thread.start()

    def submit(self, reply: Reply) -> Stream:
        """Queue a reply to be written, first come, first served.

        Raises QueueFull, or ChatlibError for a prompt that does not fit the model.
        """
        self.engine.check(reply.prompt)
        stream = Stream(reply)
        with self._changed:
            if self._closed or len(self.waiting) >= self.room:
                self.counts["refused"] += 1
                raise QueueFull("All places are taken; try again in a moment.")
            self.counts["requests"] += 1
            self.waiting.append(stream)
            self._changed.notify()
        return stream

    def close(self) -> None:
        """Stop after the step in progress; unfinished replies end as cancelled."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while self._wait_for_work():
            try:
                self._admit()
                self._deliver(self.batch.step() if self.live else [])
            except Exception:
                log.exception("a step failed; its replies end here")
                self._end_all("error")
        self._end_all("cancelled")

    def _wait_for_work(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self.waiting or self.live or self._closed)
            return not self._closed

    def _admit(self) -> None:
        """Prefill one waiting prompt: one only, so that live replies never pause for long."""
        while self.batch.free and self.waiting:
            stream = self.waiting.popleft()
            if stream.reply.finish:  # cancelled while it waited
                self._end(stream)
                continue
            self.live[stream.reply] = stream
            self.batch.join([[stream.reply]])
            return

    def _deliver(self, written: list[tuple[Reply, Token]]) -> None:
        self.counts["steps"] += 1
        self.counts["tokens"] += len(written)
        for reply, token in written:
            self.live[reply].tokens.put(token)
        touched = [self.live[reply] for reply, _ in written]
        for stream in [s for s in self.live.values() if s.reply not in self.batch.replies]:
            del self.live[stream.reply]
            self._end(stream)
        self._wake(touched)

    def _end(self, stream: Stream) -> None:
        self.counts[stream.reply.finish] += 1
        stream.tokens.put(None)
        self._wake([stream])

    def _end_all(self, reason: str) -> None:
        with self._changed:
            streams = [*self.live.values(), *self.waiting]
            self.live.clear()
            self.waiting.clear()
        self.batch.clear()
        for stream in streams:
            stream.reply.finish = stream.reply.finish or reason
            self._end(stream)

    def _wake(self, streams: list[Stream]) -> None:
        """Tell the event loop, once for all streams; it may be gone when the server stops."""
        if self.loop and streams:
            with contextlib.suppress(RuntimeError):
                self.loop.call_soon_threadsafe(_announce, streams)


def _announce(streams: list[Stream]) -> None:
    for stream in streams:
        stream.news.set()
