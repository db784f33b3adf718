"""`python -m kdlab.tools.loss_smoke_test`: two epochs of every loss on the digits, in which its term must fall.

The student trains without labels, on the head's term alone, from a teacher twice as wide.
Adam's steps do not grow with the weight of a loss: published weights suit other maps and optimizers.
Ramps are left out, and a first phase that prepares the head is as short as the run.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import NamedTuple

from kdlab.config.compose import compose, groups
from kdlab.core.errors import nearest

EPOCHS, LIMIT, STEPS = 2, 0.9, 8

EXCEPTIONS: Mapping[str, tuple[int, float, str]] = {
    "crd": (6, LIMIT, "its banks start with noise, and grow harder to tell apart before they hold embeddings"),
    "soft_ce": (EPOCHS, 0.95, "its value stays above T² times the teacher's entropy, which is most of it"),
    "vid": (10, LIMIT, "most of its value is the logarithm of the variances, which start at 5"),
}
"""Losses that take more epochs or fall less far: epochs, the largest ratio of end to start, and why."""


def losses() -> list[str]:
    """Every loss that compares convolutional networks."""
    from kdlab.tools.method_table import head_of

    asked = {name: head_of(name).needs().learner for name in groups()["loss"]}
    return [name for name, fields in asked.items() if not (fields.blocks or fields.attention)]


class Tryout(NamedTuple):
    """The result of a short run: the term's mean over the first steps and over the last, and the student's accuracy."""

    start: float
    end: float
    accuracy: float

    @property
    def ratio(self) -> float:
        """The share of the term that is left."""
        return self.end / self.start


def digits_result(name: str, folder: Path) -> Tryout:
    """A short run of one loss on the digits; its teacher is trained once, into the store.

    Args:
        name: an option of `loss`.
        folder: an empty one, for the run.
    """
    from kdlab.run.derive import compose_run
    from kdlab.run.execute import run

    epochs, _, _ = EXCEPTIONS.get(name, (EPOCHS, LIMIT, ""))
    overrides = [
        f"loss={name}", "loss.task_weight=0", "model=resnet8", "model.width=0.5", "teacher=resnet8",
        "teacher.trainer.max_epochs=4", "optimizer=adam", "optimizer.lr=0.003", "scheduler=constant",
        f"trainer.max_epochs={epochs}", "trainer.log_every_n_steps=1", "trainer.progress=false", "logger=csv",
        "alone=false", "+data.views.strong={}",
    ]  # fmt: skip
    head = compose(overrides).loss.heads[name]
    if head.ramp:
        overrides.append(f"loss.heads.{name}.ramp=null")
    prepares = head.first is not None and head.first.prepare
    if head.first is not None:
        key = f"loss.heads.{name}.first"
        overrides.append(f"{key}.epochs={epochs}" if prepares else f"{key}=null")
    outcome = run(compose_run(overrides), folder=folder)
    assert outcome is not None
    with (folder / "metrics.csv").open() as file:
        terms = [float(row[f"loss/{name}"]) for row in csv.DictReader(file) if row[f"loss/{name}"]]
    terms = terms[len(terms) // 2 :] if prepares else terms
    accuracy = outcome.result["student"]["test"]["last"]["accuracy"]
    return Tryout(mean(terms[:STEPS]), mean(terms[-STEPS:]), accuracy)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line: a line for each loss, its term at the start and at the end, their ratio, the accuracy.

    The exit code is 1 where a term did not fall.
    """
    parser = argparse.ArgumentParser(
        prog="python -m kdlab.tools.loss_smoke_test", description=__doc__.splitlines()[0].split(": ")[1]
    )
    parser.add_argument("losses", nargs="*", help="options of loss; none: all")
    parser.add_argument("--json", type=Path, help="also write {loss: {start, end, ratio, accuracy}} to this file")
    given = parser.parse_args(arguments)
    known = losses()
    for name in given.losses:
        if name not in known:
            print(f"kdlab: {name}: no such loss{nearest(name, known)}", file=sys.stderr)
            return 2
    found: dict[str, dict[str, float]] = {}
    fell = True
    for name in given.losses or known:
        with tempfile.TemporaryDirectory() as folder:
            tryout = digits_result(name, Path(folder))
        epochs, limit, reason = EXCEPTIONS.get(name, (EPOCHS, LIMIT, ""))
        fell = fell and tryout.ratio < limit
        note = f"  {epochs} epochs, below {limit}: {reason}" if reason else ""
        print(
            f"{name:12}{tryout.start:12.5g}{tryout.end:12.5g}{tryout.ratio:8.3f}{tryout.accuracy:8.3f}{note}",
            flush=True,
        )
        found[name] = {**tryout._asdict(), "ratio": tryout.ratio}
    if given.json is not None:
        given.json.write_text(json.dumps(found, indent=2) + "\n")
    return 0 if fell else 1


if __name__ == "__main__":
    raise SystemExit(main())
