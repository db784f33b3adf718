"""Times two training loops in alternation: each runs a block of steps and pauses while the other runs.

A B A B ... in one process, so that drift (clock rates, other users of the machine) affects both alike.
A block is timed as a whole, from requesting its first batch to finishing its last step: fetching,
hooks and bookkeeping between two steps count like the steps themselves.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from statistics import median, quantiles
from threading import Semaphore, Thread
from typing import Any, Generic, TypeVar

import torch

from kdlab.core.knowledge import Batch

T = TypeVar("T")

Throttle = Callable[[Iterable[Batch]], Iterator[Batch]]
"""Passes batches on while its loop may run, and makes it wait between blocks."""


class TimedLoop(Generic[T]):
    """A training loop in its own thread, which pauses after each block of steps.

    Args:
        loop: trains on the batches from the throttle, until there are no more.
    """

    def __init__(self, loop: Callable[[Throttle], T]) -> None:
        self._go, self._waiting = Semaphore(0), Semaphore(0)
        self._steps = 0
        self._result: list[T] = []
        self._error: BaseException | None = None
        self._thread = Thread(target=self._run, args=(loop,), daemon=True)
        self._thread.start()
        self._wait()

    def block(self, steps: int) -> float:
        """Runs `steps` steps; returns milliseconds per step."""
        self._steps = steps
        start = time.perf_counter()
        self._go.release()
        self._wait()
        return (time.perf_counter() - start) * 1e3 / steps

    def finish(self) -> T:
        """Ends the loop; returns its result."""
        self._steps = 0
        self._go.release()
        self._thread.join()
        self._wait()
        return self._result[0]

    def _wait(self) -> None:
        self._waiting.acquire()
        if self._error is not None:
            raise self._error

    def _run(self, loop: Callable[[Throttle], T]) -> None:
        try:
            self._result.append(loop(self._throttle))
        except BaseException as error:  # raised again in the thread that waits
            self._error = error
        self._waiting.release()

    def _throttle(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        source = iter(batches)
        while True:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self._waiting.release()
            self._go.acquire()
            if not self._steps:
                return
            yield from islice(source, self._steps)


@dataclass(frozen=True)
class PairedTimes:
    """Milliseconds per step of two loops, block by block.

    ours: of the platform.
    theirs: of the loop that it is compared with.
    steps: in a block.
    """

    ours: list[float]
    theirs: list[float]
    steps: int

    @property
    def ratios(self) -> list[float]:
        """Ours over theirs, for each pair of neighbouring blocks."""
        return [ours / theirs for ours, theirs in zip(self.ours, self.theirs, strict=True)]

    @property
    def ratio(self) -> float:
        """The median of the ratios."""
        return median(self.ratios)

    def __str__(self) -> str:
        low, _, high = quantiles(self.ratios, n=4, method="inclusive")
        ours, theirs = median(self.ours), median(self.theirs)
        blocks = f"{len(self.ratios)} × {self.steps}"
        return f"{ours:10.2f}{theirs:12.2f}{self.ratio:8.3f}{low:8.3f} to {high:5.3f}{blocks:>10}"


def alternate(ours: TimedLoop[Any], theirs: TimedLoop[Any], blocks: int, steps: int) -> PairedTimes:
    """Times two loops in alternating blocks, after one warm-up block each.

    Args:
        blocks: how many of each loop are timed.
        steps: in a block.
    """
    both = [(ours.block(steps), theirs.block(steps)) for _ in range(blocks + 1)][1:]
    return PairedTimes([one for one, _ in both], [other for _, other in both], steps)
