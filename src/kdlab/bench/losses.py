"""The cost of each distillation loss over plain `kd`: time of a training step and peak memory, in the platform.

Peak memory is that of everything between assembling a run and the end of its third step: on a GPU
`max_memory_allocated`; on a CPU the largest running sum of torch's allocations and frees, from the profiler. Both leave
out what was allocated before, such as the images on a CPU.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, islice
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch.profiler import ProfilerActivity, profile

from kdlab.bench.interleave import PairedTimes, TimedLoop, alternate
from kdlab.bench.workload import Workload, platform_loop
from kdlab.config.schema import RunConfig
from kdlab.core.knowledge import Batch
from kdlab.data.dataset import TableData

# All heads from the first step on, without their phases and ramps, with the views that some of them read;
# there is nothing to learn from noise, so the weights hardly change.
ALL_AT_ONCE = ("phases=[{epochs: 1}]", "+data.views.strong={}", "optimizer.lr=1e-6")


@dataclass(frozen=True)
class Cost:
    """The cost of one loss.

    times: against kd's. memory, over_kd: peak MiB, and the difference from kd's.
    """

    times: PairedTimes
    memory: float
    over_kd: float


def time_losses(workload: Workload, names: Iterable[str]) -> Iterator[tuple[str, Cost | ValueError]]:
    """(loss, its cost), or the reason why it cannot compare the pair."""
    plain = workload.config("loss=kd", *ALL_AT_ONCE)
    data = workload.data(plain)
    least = peak_mib(plain, data)
    for name in names:
        try:
            config = workload.config(f"loss={name}", f"loss.heads.{name}.ramp=null", *ALL_AT_ONCE)
            memory = peak_mib(config, data)
            with TemporaryDirectory() as one, TemporaryDirectory() as other:
                ours = TimedLoop(platform_loop(config, data, Path(one)))
                theirs = TimedLoop(platform_loop(plain, data, Path(other)))
                measured = alternate(ours, theirs, workload.blocks, workload.steps)
                ours.finish(), theirs.finish()
            yield name, Cost(measured, memory, memory - least)
        except ValueError as error:
            yield name, error


def peak_mib(config: RunConfig, data: TableData) -> float:
    """The peak memory of a run, in MiB."""
    peak = peak_on_gpu if torch.cuda.is_available() else peak_on_cpu
    with TemporaryDirectory() as folder:
        return peak(partial(platform_loop(config, data, Path(folder)), _three_steps)) / 2**20


class _Enough(Exception):  # noqa: N818
    """Three steps were run."""


def _three_steps(batches: Iterable[Batch]) -> Iterator[Batch]:
    yield from islice(batches, 3)
    raise _Enough


def peak_on_gpu(loop: Callable[[], object]) -> float:
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    with suppress(_Enough):
        loop()
    return torch.cuda.max_memory_allocated() - before


def peak_on_cpu(loop: Callable[[], object]) -> float:
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler writes to standard error when it starts and stops
    with (
        profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiler,
        suppress(_Enough),
    ):
        loop()
    assert profiler.profiler is not None
    assert profiler.profiler.kineto_results is not None
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    return float(max(accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns()))))
