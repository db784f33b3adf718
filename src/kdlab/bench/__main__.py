"""`python -m kdlab.bench [step|losses|modes]`: the cost of the platform, compared with hand-written loops."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from kdlab.bench.allocator import keep_memory
from kdlab.bench.losses import Cost, time_losses
from kdlab.bench.modes import time_mode
from kdlab.bench.step import time_step
from kdlab.bench.workload import PAIRS, PRECISIONS, Workload, hardware
from kdlab.config.compose import compose, groups
from kdlab.core.errors import one_line
from kdlab.run.derive import mode_class

WHAT = {
    "step": "the training step against a hand-written loop; both pairs",
    "losses": "every loss against kd: time of a step, peak memory; the standard pair",
    "modes": "every mode against the sum of its forward passes, a backward pass and an update; the standard pair",
}

BLOCKS = {"step": (30, 25), "losses": (10, 10), "modes": (10, 10)}
"""Blocks, and steps in each."""

BLOCKS_OF_SECONDS = {"step": (10, 1), "losses": (4, 1), "modes": (4, 1)}
"""The same, where a step takes seconds: the standard pair on a CPU."""


@one_line
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; the exit code is 0, or 2 for what the user must change."""
    given = parse(sys.argv[1:] if arguments is None else arguments)
    keep_memory()
    {"step": step, "losses": losses, "modes": modes}[given.what](given)
    return 0


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m kdlab.bench",
        description="Times blocks of training steps of two loops in alternation, in one process.",
        epilog="\n".join(f"  {name:8}{text}" for name, text in WHAT.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", nargs="?", choices=WHAT, default="step")
    parser.add_argument("names", nargs="*", help="losses or modes; by default all")
    parser.add_argument("--pair", choices=PAIRS, help="resnet32x4 → resnet8x4, or a small one that is quick")
    parser.add_argument("--blocks", type=int, help="how many blocks of each loop are timed")
    parser.add_argument("--steps", type=int, help="in a block")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--samples", type=int, default=50_000, help="size of the data set, which is random")
    parser.add_argument("--precision", choices=PRECISIONS, default="32-true")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--json", type=Path, help="also write the losses' {loss: {ms: over kd, mib: over kd}} here")
    return parser.parse_args(arguments)


def step(given: argparse.Namespace) -> None:
    """The training step, for both pairs unless one is named."""

    header(28, "kdlab ms", "by hand ms")
    for name in (given.pair,) if given.pair else ("small", "standard"):
        times, apart = time_step(workload_of(given, name))
        same = "the same weights at the end" if apart == 0 else f"weights {apart:.1e} apart at the end"
        print(f"{PAIRS[name].title:28}{times}  target {PAIRS[name].target}; {same}", flush=True)


def losses(given: argparse.Namespace) -> None:
    """Every loss over kd."""

    header(12, "ms", "kd ms", "MiB", "over kd")
    found = {}
    for name, cost in time_losses(workload_of(given, given.pair or "standard"), given.names or groups()["loss"]):
        figures = cost if isinstance(cost, ValueError) else f"{cost.times}{cost.memory:10.1f}{cost.over_kd:+10.1f}"
        print(f"{name:12}{figures}", flush=True)
        if isinstance(cost, Cost):
            found[name] = {"ms": round(cost.times.ratio, 3), "mib": round(cost.over_kd)}
    if given.json is not None:
        given.json.write_text(json.dumps(found, indent=2) + "\n")


def modes(given: argparse.Namespace) -> None:
    """Every mode over its parts."""

    header(12, "ms", "parts ms", "passes")
    # The workloads are pictures.
    for name in given.names or [
        mode for mode in groups()["mode"] if not mode_class(compose([f"mode={mode}"])).wants_text
    ]:
        times, passes = time_mode(workload_of(given, given.pair or "standard"), name)
        print(f"{name:12}{times}  {passes}", flush=True)


def workload_of(given: argparse.Namespace, pair: str) -> Workload:
    """The workload that the command line describes, for one pair."""

    slow = pair == "standard" and not torch.cuda.is_available()
    blocks, steps = (BLOCKS_OF_SECONDS if slow else BLOCKS)[given.what]
    return Workload(
        PAIRS[pair],
        blocks if given.blocks is None else given.blocks,
        steps if given.steps is None else given.steps,
        given.batch_size,
        given.samples,
        given.precision,
        given.channels_last,
    )


def header(width: int, ours: str, theirs: str, *others: str) -> None:
    """The machine, and the names of the columns."""

    print(hardware())
    columns = f"{ours:>10}{theirs:>12}{'ratio':>8}{'quartiles':>17}{'n':>10}"
    print(" " * width + columns + "".join(f"{other:>10}" for other in others), flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
