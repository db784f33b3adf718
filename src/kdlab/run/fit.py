"""Trains one network: from a run's config and data to weights and a result, in its own folder."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from kdlab.config.instantiate import build
from kdlab.config.schema import Component, RunConfig, TrainerConfig
from kdlab.core.distributed import processes
from kdlab.core.files import remove_unfinished, replacing
from kdlab.core.rng import seed_all, seed_of
from kdlab.data.data import Data
from kdlab.networks.teacher import Teacher
from kdlab.networks.weights import StateDict, save_weights
from kdlab.run.builder import Made, assemble
from kdlab.run.evaluation import Measured, measure
from kdlab.run.loggers import MetricsFile, wandb_run
from kdlab.run.recipe import Recipe
from kdlab.run.resume import last_good
from kdlab.tasks.task import Task
from kdlab.training.callbacks import KeepBest, ProgressLine, checkpoints, interruptible
from kdlab.training.checkpoint_io import LAST, CheckpointFiles
from kdlab.training.datamodule import Batches
from kdlab.training.distiller import Distiller
from kdlab.training.loss_buffer import DivergedError
from kdlab.training.lr_schedule import make_scheduler
from kdlab.training.setup import Parts
from kdlab.training.validation import prefixes

ADVICE = "Try a lower optimizer.lr or trainer.gradient_clip=1"


@dataclass
class Trained:
    """A trained network: the weights to keep and the measurements.

    teachers: the frozen networks that it learned from.
    measured: also what was measured of them, and of the networks beside it.
    """

    weights: StateDict
    result: dict[str, Any]
    task: Task
    teachers: tuple[Teacher, ...]
    measured: Measured


@dataclass
class Fit:
    """A run while it trains.

    keep: the weights of each student's best epoch; None where nothing is validated.
    summary: what a dashboard shows besides what was logged.
    """

    parts: Parts
    distiller: Distiller
    trainer: pl.Trainer
    batches: Batches
    keep: KeepBest | None
    summary: dict[str, Any] = field(default_factory=dict)


def fit(
    config: RunConfig,
    data: Data,
    folder: Path,
    *,
    job: str,
    teachers: Sequence[Made] | None = None,
    group: str | None = None,
    recipe: Recipe | None = None,
    resume: bool = False,
    one_device: bool = False,
    callbacks: Sequence[pl.Callback] = (),
    beside: Mapping[str, nn.Module] | None = None,
) -> Trained | None:
    """Trains the student of a run and tests it once, at the end.

    Args:
        config: a run, without what its mode does not use.
        data: what it trains on.
        folder: where checkpoints, metrics.csv and the W&B run go.
        job: `teacher`, `alone` or the mode's name, for W&B.
        teachers: the trained network of each of its teachers; None: they stay untrained.
        group: of W&B runs that belong together.
        recipe: of this network; checkpoints hold it, and one of another recipe is refused. None: any is taken.
        resume: from the last good checkpoint in the folder.
        one_device: whatever the config says, for a run that another one waits for.
        callbacks: further ones, of Lightning.
        beside: networks to be tested and measured with the student, by name.

    Returns:
        None on ranks other than the first.

    Raises:
        DivergedError: where the loss became NaN or infinite.
        KeyboardInterrupt: the run can be resumed.
        UsageError: where it cannot be resumed from what is in the folder.
    """
    io = CheckpointFiles(recipe)
    with _fitting(config, data, folder, job, teachers, group, one_device, callbacks, io) as fitting:
        _train(fitting, config, folder, recipe, resume)
        if not fitting.trainer.is_global_zero:
            return None
        try:
            trained = _tested(config, data, folder, fitting, beside)
        except DivergedError as error:
            raise DivergedError(f"{config.name}: {error}. {ADVICE}") from error
        fitting.summary |= {f"test/{key}": value for key, value in trained.result["test"]["last"].items()}
        return trained


def fit_trial(
    config: RunConfig,
    data: Data,
    folder: Path,
    *,
    teachers: Sequence[Made] | None = None,
    group: str | None = None,
    callbacks: Sequence[pl.Callback] = (),
) -> None:
    """Trains the student of a run as a trial of a study: validated, never tested; no weights are written.

    Args, raises: see `fit`.
    """
    with _fitting(config, data, folder, "trial", teachers, group, True, callbacks, None) as fitting:
        _train(fitting, config, folder, None, resume=False)


@contextmanager
def _fitting(
    config: RunConfig, data: Data, folder: Path, job: str, teachers: Sequence[Made] | None, group: str | None,
    one_device: bool, callbacks: Sequence[pl.Callback], io: CheckpointFiles | None,
) -> Iterator[Fit]:  # fmt: skip
    """An assembled run with open loggers; `io`: writes its checkpoints; None: nor are its best weights written."""
    folder.mkdir(parents=True, exist_ok=True)
    seed_all(config.seed)
    parts = assemble(config, teachers=teachers, labels=data.labels, samples=data.sizes["train"])
    settings = config.trainer
    ranks = 1 if one_device else processes(settings.accelerator, settings.devices, settings.num_nodes)
    shares = ranks * settings.accumulate
    seen = [data if phase.part is None else data.part(phase.part) for phase in parts.phases]
    distiller = _distiller(config, parts, [part.steps_per_epoch(settings.batch_size, shares) for part in seen])
    validated, write = data.sizes["validation"] > 0, io is not None
    keep = KeepBest(folder) if validated and write else None
    watching: list[pl.Callback] = [*callbacks, *([keep] if keep else [])]
    watching += [ProgressLine(config.name or "")] if settings.progress else []
    watching += checkpoints(_last(folder).parent, settings.checkpoint_every_n_steps) if write else []
    metrics = MetricsFile(folder / "metrics.csv", _columns(parts))
    trainer = pl.Trainer(
        max_epochs=sum(phase.epochs for phase in parts.phases),
        max_steps=settings.max_steps or -1,
        precision=settings.precision,  # type: ignore[arg-type]  # ranges.py knows which there are
        accelerator=settings.accelerator,
        devices=1 if one_device else settings.devices,  # type: ignore[arg-type]  # a sequence is a list
        num_nodes=1 if one_device else settings.num_nodes,
        strategy="auto" if one_device else _strategy(settings, parts),
        # One rank is one rank, also within a job of several tasks.
        plugins=[*([LightningEnvironment()] if ranks == 1 else []), *([io] if io else [])],
        logger=metrics,
        callbacks=watching,
        enable_checkpointing=write,
        limit_val_batches=None if validated else 0,
        num_sanity_val_steps=0,
        reload_dataloaders_every_n_epochs=int(any(part is not data for part in seen)),
        log_every_n_steps=1,
        use_distributed_sampler=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    if trainer.is_global_zero and write and (left := data.left_out(settings.batch_size, shares)):
        print(
            f"kdlab: an epoch leaves out {left} samples: its last batch does not divide into {shares} shares of two "
            "samples or more (devices times trainer.accumulate)",
            file=sys.stderr,
        )
    with ExitStack() as ends:
        ends.callback(parts.close)
        batches = Batches(data, seen, settings.batch_size, config.seed, parts.views, settings.accumulate)
        ends.callback(batches.close)
        fitting = Fit(parts, distiller, trainer, batches, keep)
        if config.logger.wandb:
            board = wandb_run(
                folder, config.logger, config.plain(), name=config.name or "", job=job, group=group,
                tags=[name for name in config.names.plain().values() if name], directions=parts.task.directions,
            )  # fmt: skip
            logger, fitting.summary = ends.enter_context(board)
            trainer.loggers = [metrics, logger]
        yield fitting


def _train(fitting: Fit, config: RunConfig, folder: Path, recipe: Recipe | None, resume: bool) -> None:
    trainer, last = fitting.trainer, _last(folder)
    found = last_good(folder, recipe) if resume else None
    if resume and trainer.is_global_zero:
        remove_unfinished(folder)
        (metrics,) = (logger for logger in trainer.loggers if isinstance(logger, MetricsFile))
        metrics.forget_after(found.steps if found else 0)
        if found and found.damaged:
            print(f"kdlab: {found.damaged} is damaged; continuing from {found.file}", file=sys.stderr)
    seed_all(seed_of(config.seed, "training", str(trainer.global_rank)))
    try:
        with interruptible(trainer):
            trainer.fit(fitting.distiller, datamodule=fitting.batches, ckpt_path=found.file if found else None)
    except DivergedError as error:
        good = f"the last good checkpoint is {last}" if last.is_file() else "no epoch had finished"
        raise DivergedError(f"{error}; {good}. {ADVICE}") from error


def _distiller(config: RunConfig, parts: Parts, steps: Sequence[int]) -> Distiller:
    settings, allow = config.trainer, config.allow

    def optimizer(parameters: Sequence[nn.Parameter], own: Component | None) -> Optimizer:
        return build(own or config.optimizer, Optimizer, "optimizer", allow=allow, params=parameters)

    def scheduler(made: Optimizer, own: Component | None, epochs: int, steps: int) -> tuple[LRScheduler, str]:
        return make_scheduler(own or config.scheduler, made, epochs, steps, allow)

    return Distiller(
        parts, steps, optimizer, scheduler,
        accumulate=settings.accumulate, gradient_clip=settings.gradient_clip, log_every=settings.log_every_n_steps,
        compile=settings.compile, channels_last=settings.channels_last, chunk_rows=settings.chunk_rows,
    )  # fmt: skip


def _columns(parts: Parts) -> list[str]:
    """The name of every number that a run may log."""
    terms = [name for setup in parts.setups for name in setup.objective.names]
    columns = [f"loss/{name}" for name in (*dict.fromkeys(terms), "total")] + ["lr"]
    for name in dict.fromkeys(prefix for setup in parts.setups for prefix in prefixes(setup.mode).values()):
        columns += [f"{name}/{metric}" for metric in parts.task.measured()]
    return columns


def _tested(
    config: RunConfig, data: Data, folder: Path, fitting: Fit, beside: Mapping[str, nn.Module] | None
) -> Trained:
    """The result of a trained run: the student that is kept, and its peers."""
    parts, distiller, keep = fitting.parts, fitting.distiller, fitting.keep
    device = distiller.trainer.strategy.root_device
    parts.mode.move(device, torch.float32)
    measured = measure(config, data, parts, keep, device, beside)
    name = _chosen(parts, keep, config.keep)
    result = {
        **measured.rows[name],
        "epochs": distiller.epochs_done(),
        "seconds": distiller.seconds,
        "samples_per_second": distiller.samples / distiller.seconds if distiller.seconds else None,
        "kept": name,
        "peers": {other: row for other, row in measured.rows.items() if other != name},
    }
    weights = measured.weights[name].get(config.keep, measured.weights[name]["last"])
    with replacing(folder / "student.safetensors") as aside:
        save_weights(weights, aside)
    return Trained(weights, result, parts.task, parts.mode.teachers, measured)


def _last(folder: Path) -> Path:
    return folder / "checkpoints" / LAST


def _strategy(settings: TrainerConfig, parts: Parts) -> str:
    """DDP searches for parameters without a gradient only where there may be some: it costs a walk over the graph."""
    strategy = settings.strategy
    unused = any(
        0 in (setup.objective.task_weight if phase.task_weight is None else phase.task_weight,
              *(term.weight_at(0) for term in setup.objective.terms))
        for phase, setup in zip(parts.phases, parts.setups, strict=True)
    )  # fmt: skip
    several = strategy == "ddp" or processes(settings.accelerator, settings.devices, settings.num_nodes) > 1
    return "ddp_find_unused_parameters_true" if unused and several else strategy


def _chosen(parts: Parts, keep: KeepBest | None, which: str) -> str:
    """The student that is kept: the named one, or the best by validation of those built like the first."""
    first, *others = parts.mode.validated()
    if parts.mode.kept != "best" or keep is None:
        return first
    for name in others:
        ours, theirs = (getattr(keep.of[student], which) for student in (name, first))
        if parts.networks[name] == parts.networks[first] and ours is not None and parts.task.better(ours, theirs):
            first = name
    return first
