"""What a study's processes run: trials, which are validated and never tested, and refits.

The warm process imports this file and, with it, torch and Lightning; see `kdlab.study.process_pool`.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import WandbLogger

from kdlab.config.schema import RunConfig
from kdlab.core.errors import UsageError, nearest
from kdlab.data.data import Data
from kdlab.data.dataset import load
from kdlab.networks import cost
from kdlab.networks.weights import StateDict, packed
from kdlab.run.builder import example_batch
from kdlab.run.derive import drop_unused
from kdlab.run.execute import Resources, run
from kdlab.run.fit import fit_trial
from kdlab.run.folder import write_config
from kdlab.run.preflight import Preflight, check_samples
from kdlab.run.store import Store
from kdlab.study.process_pool import (
    Assignment,
    Channel,
    Diverged,
    DivergedTrialError,
    Epoch,
    Failed,
    Known,
    ProcessPool,
    TrialRunner,
)
from kdlab.study.refit import of_result
from kdlab.study.search_space import options, written
from kdlab.study.spec import Plan
from kdlab.study.wandb_summary import publish, summary
from kdlab.training.distiller import Distiller
from kdlab.training.loss_buffer import DivergedError


class Distillation(TrialRunner):
    """Trials that distil."""

    def __init__(self) -> None:
        self._threads = torch.get_num_threads()
        torch.set_num_threads(1)  # threads started here would be missing in the processes forked from this one
        self._config: RunConfig
        self._data: Data
        self._loaded: dict[str, StateDict] = {}

    def check(self, plan: Plan) -> None:
        """Checks every run that the study can reach, in every arm, with its data, and every metric that it reads.

        Raises:
            UsageError: where one is impossible.
        """
        with tempfile.TemporaryDirectory() as folder:
            _apart(Path(folder), lambda line: _check(plan))

    def prepare(self, plan: Plan) -> None:
        """Decodes the data and ensures that the teacher is in the store.

        Raises:
            UsageError: where it could not be trained.
        """
        arm = plan.arms[0]
        self._config = drop_unused(plan.compose([*arm.overrides, *written(arm.default)])).replace(name=plan.name)
        self._data = load(self._config.data.plain(), self._config.allow)
        if self._config.logger.wandb:
            importlib.import_module("wandb.sdk.launch")  # half the time of starting a run, else repeated in each
        shared = Resources(self._data, Store(), plan.folder / "teacher", plan.name)
        quiet = self._config.replace(trainer=self._config.trainer.replace(progress=False))
        missing = "teacher: not in the store, training it first"
        _apart(shared.folder, lambda line: {"teachers": len(shared.teachers(quiet))}, missing)
        self._loaded = {entry.key: entry.weights() for entry in shared.teachers(self._config) if entry is not None}

    def trial(self, line: Channel, plan: Plan, assignment: Assignment) -> dict[str, float]:
        """Trains a student for each seed, reports the first one's curve, and stops where told to.

        Raises:
            DivergedTrialError: where the loss or a metric became NaN or infinite.
        """
        self._settle(plan, assignment.slot)
        config = drop_unused(_named(plan.compose(assignment.overrides), plan, assignment, ["trial"]))
        write_config(assignment.folder, config)
        data = self._data if config.data == self._config.data else load(config.data.plain(), config.allow)
        store = Store(waiting=line.waiting, loaded=self._loaded)
        found: list[dict[str, float]] = []
        for place in range(plan.settings.seeds):
            folder = assignment.folder / f"seed{place}" if place else assignment.folder
            seeded = config.replace(seed=config.seed + place)
            report = Report(plan, config, None if place else line)
            shared = Resources(data, store, folder, plan.name)
            try:
                fit_trial(
                    seeded, data, folder, group=plan.name, callbacks=[report],
                    teachers=shared.networks(seeded, shared.teachers(seeded)),
                )  # fmt: skip
            except DivergedError as error:
                raise DivergedTrialError(str(error).split(";")[0]) from error
            found.append(report.metrics())
            if report.stopped:
                break
        mean = {name: fmean(one[name] for one in found) for name in found[0]}
        if broken := [name for name, value in mean.items() if not math.isfinite(value)]:
            raise DivergedTrialError(f"{broken[0]} became NaN or infinite")
        return mean

    def refit(self, line: Channel, plan: Plan, assignment: Assignment) -> dict[str, Any]:
        """A whole run, tested at its end, with its teacher and the student alone; see `refit.of_result`."""
        self._settle(plan, assignment.slot)
        config = drop_unused(_named(plan.compose(assignment.overrides), plan, assignment, ["final"]))
        config = config.replace(trainer=config.trainer.replace(devices=1, num_nodes=1, strategy="auto"))
        outcome = run(config, folder=assignment.folder, store=Store(waiting=line.waiting))
        assert outcome is not None
        return of_result(outcome.result, config.keep)

    def publish(self, plan: Plan, final: Mapping[str, Any] | None) -> None:
        """Publishes on W&B, if the study's runs do."""
        logger = self._config.logger
        if logger.wandb:
            _apart(plan.folder, lambda line: publish(plan, logger, final))

    def _settle(self, plan: Plan, slot: int) -> None:
        """Takes this process's share of the machine, and hides SLURM's tasks, which would be ranks of one run."""
        os.environ.pop("SLURM_NTASKS", None)
        torch.set_num_threads(max(1, self._threads // plan.settings.workers))
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        devices = visible.split(",") if visible else [str(place) for place in range(torch.cuda.device_count())]
        if len(devices) > 1:
            os.environ["CUDA_VISIBLE_DEVICES"] = devices[slot % len(devices)]


class Report(pl.Callback):
    """Reports the costs of a trial before it trains, and its metrics after each epoch; stops it on request.

    Args:
        plan: the study.
        config: the run.
        line: to the process that watches; None: no reports.
    """

    def __init__(self, plan: Plan, config: RunConfig, line: Channel | None) -> None:
        self.plan, self.config, self.line = plan, config, line
        self.stopped = False
        self._known: dict[str, float] = {}
        self._rows: list[dict[str, float]] = []
        self._best = 0
        self._times: dict[str, float] = {}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Measures the student, still on the CPU."""
        assert isinstance(pl_module, Distiller)
        student = next(iter(pl_module.mode.validated().values()))
        one = example_batch(self.config, samples=1)["input"]
        self._known = {
            "student.parameters": cost.parameters(student),
            "student.multiply_accumulates": cost.multiply_accumulates(student, one),
            "student.bytes": len(packed(student.state_dict())),
        }
        if "student.latency_ms" in self.plan.metrics:
            self._known["student.latency_ms"] = cost.latencies_ms({"student": (student, one)})["student"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._report(trainer, Known(self._known, trainer.max_epochs or 0))

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, Distiller)
        task = pl_module.task
        found = trainer.callback_metrics
        row = {f"validation.{name}": float(found[f"validation/{name}"]) for name in task.measured()
               if f"validation/{name}" in found}  # fmt: skip
        primary = f"validation.{task.primary}"
        if not self._rows or task.better(row[primary], self._rows[self._best][primary]):
            self._best = len(self._rows)
        self._rows.append(row)
        self._report(trainer, Epoch(trainer.current_epoch + 1, row[self.plan.curve]))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, Distiller)
        samples = pl_module.samples
        rate = samples / pl_module.seconds if pl_module.seconds else 0.0
        self._times = {"student.seconds": pl_module.seconds, "student.samples_per_second": rate}
        for board in _boards(trainer):
            board.summary.update(summary(self.metrics()))

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        for board in _boards(trainer):
            board.tags = (*board.tags, "failed")

    def metrics(self) -> dict[str, float]:
        """The metrics of the epoch that the run would keep, and the student's costs."""
        kept = self._best if self.config.keep == "best" else -1
        return {**(self._rows[kept] if self._rows else {}), **self._known, **self._times}

    def _report(self, trainer: pl.Trainer, message: Known | Epoch) -> None:
        if self.line is not None and self.line.stop(message):
            self.stopped = trainer.should_stop = True
            for board in _boards(trainer):
                board.tags = (*board.tags, "pruned")


def _boards(trainer: pl.Trainer) -> list[Any]:
    return [logger.experiment for logger in trainer.loggers if isinstance(logger, WandbLogger)]


def _named(config: RunConfig, plan: Plan, assignment: Assignment, tags: Sequence[str]) -> RunConfig:
    """A run as part of a study: quiet, under its name, in the study's group."""
    logger = config.logger.replace(group=plan.name, tags=(*config.logger.tags, *tags))
    return config.replace(name=assignment.name, logger=logger, trainer=config.trainer.replace(progress=False))


def _check(plan: Plan) -> dict[str, Any]:
    preflight = Preflight()
    known: dict[str, Data] = {}
    for arm in plan.arms:
        for point in (arm.default, *options(arm.space)):
            config = drop_unused(plan.compose([*arm.overrides, *written(point)]))
            try:
                parts = preflight.check(config)
                written_by = [f"validation.{name}" for name in parts.task.measured()]
                for metric in plan.metrics:
                    if metric.startswith("validation.") and metric not in written_by:
                        raise UsageError(f"no run writes {metric}{nearest(metric, written_by)}")
                data = config.data.plain()
                if (name := json.dumps(data, sort_keys=True)) not in known:
                    known[name] = load(data, config.allow)
                check_samples(config, known[name])
            except UsageError as error:
                whose = f"compare {arm.option}: " if arm.option else ""
                raise UsageError(f"{whose}{error}") from error
    return {}


def _apart(folder: Path, do: Callable[[Channel], dict[str, Any]], patience: str | None = None) -> None:
    """Calls `do` in its own process: threads and CUDA, once started here, would break in later forks.

    Args:
        folder: for its output.
        do: the function.
        patience: a message for when it takes longer than a moment.

    Raises:
        UsageError: where it failed.
    """
    pool = ProcessPool(1)
    pool.start(0, folder, do)
    try:
        while pool.jobs:
            messages = [message for _, message in pool.wait(2.0)]
            for message in messages:
                if isinstance(message, (Failed, Diverged)):
                    raise UsageError(message.reason)
            if not messages and patience:
                print(patience, file=sys.stderr, flush=True)
                patience = None
    finally:
        pool.kill_all()
