"""Where a run's numbers go: metrics.csv, the ground truth, and Weights & Biases."""

from __future__ import annotations

import csv
import io
import os
import re
import secrets
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from kdlab.config.schema import LoggerConfig
from kdlab.core.files import write_text

if TYPE_CHECKING:
    from wandb import Run


class MetricsFile(Logger):
    """metrics.csv: one row per logged step, written immediately, with fixed columns.

    Args:
        file: the CSV file; rows already there are kept.
        columns: every number that the run may log.
    """

    def __init__(self, file: Path, columns: Sequence[str]) -> None:
        super().__init__()
        self.file = file
        self.columns = ("step", "epoch", *columns)

    @property
    def name(self) -> str:
        return "metrics"

    @property
    def version(self) -> str:
        return "0"

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """The config is next to this file, in config.yaml."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Adds one row."""
        fresh = not self.file.is_file() or not self.file.stat().st_size
        with self.file.open("a", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, self.columns, restval="", extrasaction="ignore")
            if fresh:
                writer.writeheader()
            writer.writerow({"step": step, **metrics})

    def forget_after(self, step: int) -> None:
        """Drops the rows that a resumed run will write again, and what cannot be read."""
        if not self.file.is_file():
            return
        rows = [row for row in _rows(self.file, self.columns) if float(row["step"]) <= step]
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self.columns, restval="", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(sorted(rows, key=lambda row: float(row["step"])))
        write_text(self.file, text.getvalue())


def read_metrics(file: Path) -> list[dict[str, float]]:
    """The rows of a metrics.csv, each with the numbers it holds; those that were damaged are left out."""
    return [{key: float(value) for key, value in row.items() if value} for row in _rows(file)]


def _rows(file: Path, columns: Sequence[str] = ()) -> Iterator[dict[str, str]]:
    """The whole rows of a metrics.csv, by column; `columns`: where its header cannot be read."""
    for line in file.read_bytes().decode(errors="replace").split("\n")[:-1]:  # what follows the last break is not whole
        cells = next(csv.reader([line.replace("\0", "?")]), [])
        if cells[:2] == ["step", "epoch"]:
            columns = cells
        elif len(cells) == len(columns) and re.fullmatch(r"[0-9]+", cells[0]) and _numbers(cells):
            yield dict(zip(columns, cells, strict=True))


def _numbers(cells: Sequence[str]) -> bool:
    """Whether each cell is a number or empty."""
    try:
        return bool([float(cell) for cell in cells if cell])
    except ValueError:
        return False


@contextmanager
def wandb_run(
    folder: Path,
    settings: LoggerConfig,
    config: Mapping[str, Any],
    *,
    name: str,
    tags: Sequence[str],
    job: str,
    group: str | None,
    directions: Mapping[str, str],
    failed: bool = False,
) -> Iterator[tuple[WandbLogger, dict[str, Any]]]:
    """A W&B run: online where the user is logged in, offline otherwise; it never prompts.

    A W&B error does not stop training: one line on stderr reports it, and the process continues offline.

    Its id is in the run folder, so that a resumed run continues the same W&B run. Its summary holds the
    best validation value of every metric, not the last.

    It always ends with the block, with its exit code: else the next run of this process would continue it.

    Args:
        folder: of the run.
        settings: `logger` of its config.
        config: shown by W&B.
        name: of the W&B run.
        tags: besides those of the settings.
        job: its job type.
        group: of runs that belong together.
        directions: of each metric, `max` or `min`.
        failed: whether the run failed before.

    Yields:
        The logger, and a dict of further entries for its summary.
    """
    if int(getattr(rank_zero_only, "rank", 0)) != 0:
        yield WandbLogger(project=settings.project), {}
        return
    import wandb

    identity = folder / "wandb_id"
    if not identity.is_file():
        write_text(identity, secrets.token_hex(4))
    run = _begun(
        name=name,
        project=settings.project,
        entity=settings.entity,
        group=group,
        job_type=job,
        tags=sorted({*settings.tags, *tags}),
        config=dict(config),
        dir=folder,
        id=identity.read_text(),
        resume="allow",
        settings=wandb.Settings(silent=True, console="off", init_timeout=15),
    )
    run.define_metric("trainer/global_step")
    run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
    for name, direction in directions.items():
        run.define_metric(f"validation/{name}", step_metric="trainer/global_step", summary=direction)
    summary: dict[str, Any] = {}
    broken = True
    try:
        yield WandbLogger(experiment=run, project=settings.project), summary
        broken = failed
    finally:
        run.summary.update(summary)
        run.finish(exit_code=int(broken))


def _begun(**arguments: Any) -> Run:
    import wandb

    try:
        mode: Any = os.environ.get("WANDB_MODE") or ("online" if wandb.login(prompt=False, verify=False) else "offline")
        return wandb.init(mode=mode, **arguments)
    except wandb.errors.Error as error:
        why = (str(error) or type(error).__name__).splitlines()[0]
        print(f"kdlab: W&B continues offline, upload later with wandb sync: {why}", file=sys.stderr, flush=True)
        wandb.teardown()  # else the id would be in use
        os.environ["WANDB_MODE"] = "offline"  # so that the next run of this process does not wait again
        return wandb.init(mode="offline", **arguments)
