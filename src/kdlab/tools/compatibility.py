"""`python -m kdlab.tools.compatibility`: every loss in every mode for two training steps, as a table.

Impossible cells have a reason below the table: it follows from what the loss needs and what the mode, its networks
and the data offer. Two steps, because some modes teach with the outputs of the last step.

`python -m kdlab.tools.compatibility --measure 5` trains instead, on the digits: every mode as published, over five
seeds, next to the same student alone. Further arguments are overrides of each run, such as `data=text data.path=.
data.classes=4 model=bert_tiny teacher=bert_tiny`; nothing is read from the data.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence

from rich.console import Console

from kdlab.config.compose import compose, groups
from kdlab.config.schema import RunConfig
from kdlab.core.comparison import format_difference, format_interval, format_mean
from kdlab.core.errors import one_line
from kdlab.core.statistics import paired
from kdlab.core.terminal import PlainTable, say, terminal

SMALL = ("model=resnet8", "model.width=0.25", "teacher=resnet8", "teacher.model.width=0.5", "logger=csv")
"""Networks for the table, overridden by what the user gives."""

SAMPLES = 16
"""Of the batch of noise that each cell trains on."""


@one_line
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; the exit code is 0, or 2 for what the user must change."""
    parser = argparse.ArgumentParser(
        prog="python -m kdlab.tools.compatibility", description="Every loss in every mode."
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="of every run")
    parser.add_argument("--measure", type=int, metavar="SEEDS", help="train every mode over this many seeds instead")
    given = parser.parse_args(arguments)
    if given.measure:
        print_measured(measure(given.overrides, given.measure))
    else:
        print_grid(grid([*SMALL, *given.overrides]))
    return 0


def modes(overrides: Sequence[str] = ()) -> dict[str, RunConfig]:
    """The run of every mode in which there is something to learn from; those that continue texts where there are such.

    Args:
        overrides: of every run.
    """
    from kdlab.run.derive import mode_class

    found = {mode: compose([*overrides, f"mode={mode}"]) for mode in groups()["mode"] if mode != "supervised"}
    return {mode: config for mode, config in found.items()
            if config.names.task == "language_modeling" or not mode_class(config).wants_text}  # fmt: skip


def grid(overrides: Sequence[str]) -> dict[tuple[str, str], str | None]:
    """(loss, mode) of every cell, with the reason where it is impossible, else None."""
    losses = {loss: compose([*overrides, f"loss={loss}"]).loss for loss in groups()["loss"]}
    composed = modes(overrides)
    return {
        (loss, mode): attempt(config.replace(loss=settings))
        for loss, settings in losses.items()
        for mode, config in composed.items()
    }


def attempt(config: RunConfig) -> str | None:
    """Takes two training steps of a composed run, on noise; the reason where it is impossible, else None.

    Raises:
        FloatingPointError: where a loss is not finite.
    """
    import torch

    from kdlab.core.knowledge import Progress
    from kdlab.run.builder import assemble, example_batch, make_terms, outputs_of
    from kdlab.run.derive import drop_unused
    from kdlab.training.objective import Counts

    wanted: dict[str, dict[str, float]] = {
        view: {} for term in make_terms(config.loss.heads) for view in term.make().needs().views
    }
    config = drop_unused(config.replace(data=config.data.replace(views={**config.data.views, **wanted})))
    torch.manual_seed(0)
    try:
        parts = assemble(config, samples=max(SAMPLES, 2 * outputs_of(config)))
    except ValueError as error:
        return " ".join(str(error).split())
    mode, objective = parts.mode, parts.objective
    batch = example_batch(config, SAMPLES)
    batch["views"] = {view: example_batch(config, SAMPLES) for view in (*objective.views(), *mode.shows)}
    batch = parts.task.by_row(batch)
    labelled = parts.task.labelled(batch["target"])
    counts = Counts(float(len(labelled)), float(labelled.sum()))
    trained = [parameter for parameter in (*mode.parameters(), *objective.parameters()) if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, 1e-3)
    for step in range(2):
        for phase in parts.phases:
            progress = Progress(step, step, 2, 2)
            loss, _ = objective(mode(batch, progress), counts, progress, prepare=phase.prepare,
                                heads=phase.heads, task_weight=phase.task_weight)  # fmt: skip
            if not loss.isfinite():
                raise FloatingPointError(f"loss={'+'.join(config.loss.heads)} is {float(loss)}")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            mode.after_step(progress)
    return None


def print_grid(cells: Mapping[tuple[str, str], str | None], console: Console | None = None) -> None:
    """The table, a row per loss and a column per mode, and the reasons below it."""
    console = console or terminal()
    names = list(dict.fromkeys(mode for _, mode in cells))
    reasons: dict[str, int] = {}
    table = PlainTable()
    for name in ("", *names):
        table.add_column(name)
    for loss in dict.fromkeys(loss for loss, _ in cells):
        marks = []
        for mode in names:
            reason = cells[loss, mode]
            text = "" if reason is None else reason.removeprefix(f"loss={loss} ")
            marks.append("✓" if reason is None else str(reasons.setdefault(text, len(reasons) + 1)))
        table.add_row(loss, *marks)
    console.print(table)
    say(console, f"{sum(reason is None for reason in cells.values())} of {len(cells)} work.")
    for reason, number in reasons.items():
        say(console, f"{number}: {reason}")


def measure(overrides: Sequence[str], seeds: int) -> dict[str, list[tuple[float, float]]]:
    """Per mode, and seed, the test figure of the student alone and of the student, both at the last epoch."""
    from kdlab.run.derive import compose_run
    from kdlab.run.execute import run

    found: dict[str, list[tuple[float, float]]] = {}
    for mode in modes(overrides):
        for seed in range(1, seeds + 1):
            outcome = run(compose_run(["logger=csv", *overrides, f"mode={mode}", f"seed={seed}"]))
            assert outcome is not None
            rows, primary = outcome.result, outcome.result["primary"]
            found.setdefault(mode, []).append(
                (rows["alone"]["test"]["last"][primary], rows["student"]["test"]["last"][primary])
            )
    return found


def print_measured(found: Mapping[str, Sequence[tuple[float, float]]], console: Console | None = None) -> None:
    """Mean ± standard deviation over seeds of the students, and the paired gain with its 95 % t interval."""
    table = PlainTable()
    for name in ("mode", "student alone", "student", "gain", "95 % interval", "n"):
        table.add_column(name, no_wrap=True)
    for mode, pairs in found.items():
        alone, student = zip(*pairs, strict=True)
        gain = paired(student, alone).mean
        spread = [format_mean(values, " ", deviation=True) for values in (alone, student)]
        table.add_row(mode, *spread, format_difference(gain.value), format_interval(gain.interval), str(gain.n))
    (console or terminal()).print(table)


if __name__ == "__main__":
    raise SystemExit(main())
