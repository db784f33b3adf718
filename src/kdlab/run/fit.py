"""Trains one network: from a composed run and its data to weights and a result, in a folder of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from safetensors.torch import load_file, save
from torch import Tensor
from torch.optim import Optimizer

from kdlab.config.instantiate import build
from kdlab.core.distributed import processes
from kdlab.core.rng import seed_all, seed_of
from kdlab.data.dataset import Data
from kdlab.networks.cost import cost
from kdlab.networks.weights import StateDict, save_weights
from kdlab.run.builder import Config, assemble, example_batch, rebuild
from kdlab.run.evaluation import predict, score, student_of
from kdlab.run.loggers import MetricsFile, wandb_run
from kdlab.run.resume import read_checkpoint
from kdlab.tasks.task import Task
from kdlab.training.callbacks import KeepBest, ProgressLine, checkpoints, interruptible
from kdlab.training.datamodule import Batches
from kdlab.training.distiller import Distiller
from kdlab.training.loss_buffer import DivergedError
from kdlab.training.lr_schedule import make_scheduler
from kdlab.training.setup import Parts
from kdlab.training.validation import prefixes


@dataclass
class Trained:
    """A trained network: the weights to keep, and what was measured.

    teacher, targets: the teacher's logits [N, C] on the test part, where there is one, and its targets [N].
    device: where it was trained and tested.
    """

    weights: StateDict
    result: Config
    task: Task
    teacher: Tensor | None
    targets: Tensor
    device: torch.device


def fit(
    config: Mapping[str, Any],
    data: Data,
    folder: Path,
    *,
    job: str,
    teachers: Sequence[StateDict | None] = (),
    group: str | None = None,
    resume: bool = False,
    nested: bool = False,
    trial: bool = False,
    callbacks: Sequence[pl.Callback] = (),
) -> Trained | None:
    """Trains the student of a run and tests it once, at the end.

    Args:
        config: a composed run, its teacher's weights at hand.
        data: what it trains on.
        folder: where checkpoints, metrics.csv and the W&B run go.
        job: `teacher`, `alone` or the mode's name, for W&B.
        teachers: the weights of each of its teachers; None for one that brings its own.
        group: of W&B runs that belong together.
        resume: go on from the last checkpoint in the folder.
        nested: a run that another one waits for; it stays on one device.
        trial: one of a study: it is validated and never tested, and no weights are written.
        callbacks: further ones, of Lightning.

    Returns:
        None on ranks other than the first, and of a trial.

    Raises:
        DivergedError: where the loss was no number.
        KeyboardInterrupt: the run can be resumed.
    """
    settings = config["trainer"]
    folder.mkdir(parents=True, exist_ok=True)
    seed_all(config["seed"])
    parts = assemble(config, teachers=teachers, labels=data.labels, samples=len(data.labels))
    batches = Batches(data, settings["batch_size"], config["seed"], parts.views)
    steps = data.steps_per_epoch(settings["batch_size"])
    distiller = Distiller(
        parts,
        steps,
        lambda parameters, own: build(
            own or config["optimizer"], Optimizer, "optimizer", allow=config["allow"], params=parameters
        ),
        lambda optimizer, own, epochs, total: make_scheduler(
            own or config["scheduler"], optimizer, epochs, total, config["allow"]
        ),
        accumulate=settings["accumulate"],
        gradient_clip=settings["gradient_clip"],
        log_every=settings["log_every_n_steps"],
        compile=settings["compile"],
        channels_last=settings["channels_last"],
    )
    validated = len(data.parts.validation) > 0
    terms = [name for setup in parts.setups for name in setup.objective.names]
    columns = [f"loss/{name}" for name in (*dict.fromkeys(terms), "total")] + ["lr"]
    for name in dict.fromkeys(prefix for setup in parts.setups for prefix in prefixes(setup.mode).values()):
        columns += [f"{name}/{metric}" for metric in parts.task.metrics()]
    metrics = MetricsFile(folder / "metrics.csv", columns)
    keep = KeepBest(folder)
    last = folder / "checkpoints" / "last.ckpt"
    trainer = pl.Trainer(
        max_epochs=sum(phase.epochs for phase in parts.phases),
        max_steps=settings["max_steps"] or -1,
        precision=settings["precision"],
        accelerator=settings["accelerator"],
        devices=1 if nested else settings["devices"],
        num_nodes=1 if nested else settings["num_nodes"],
        strategy="auto" if nested else _strategy(settings, parts),
        plugins=[LightningEnvironment()] if nested else None,
        logger=metrics,
        callbacks=[
            *callbacks,
            *([keep] if validated and not trial else []),
            *([ProgressLine(config["name"])] if settings["progress"] else []),
            *([] if trial else checkpoints(last.parent, settings["checkpoint_every_n_steps"])),
        ],
        enable_checkpointing=not trial,
        limit_val_batches=None if validated else 0,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        use_distributed_sampler=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    with ExitStack() as ends:
        ends.callback(parts.mode.close)
        ends.callback(batches.close)
        summary: dict[str, Any] = {}
        if config["logger"]["wandb"]:
            board = wandb_run(folder, config["logger"], config, job=job, group=group, directions=parts.task.directions)
            logger, summary = ends.enter_context(board)
            trainer.loggers = [metrics, logger]
        checkpoint = last if resume and last.is_file() else None
        if resume and trainer.is_global_zero:
            done = read_checkpoint(last)["kdlab"]["steps"] if checkpoint else 0
            metrics.forget_after(done)
        seed_all(seed_of(config["seed"], "training", str(trainer.global_rank)))
        try:
            with interruptible(trainer):
                trainer.fit(distiller, datamodule=batches, ckpt_path=checkpoint, weights_only=True)
        except DivergedError as error:
            good = f"the last good checkpoint is {last}" if last.is_file() else "no epoch was finished before"
            raise DivergedError(f"{error}; {good}. Try a lower optimizer.lr or trainer.gradient_clip=1") from error
        if trial or not trainer.is_global_zero:
            return None
        trained = _measured(config, data, folder, parts, distiller, keep if validated else None)
        summary |= {f"test/{key}": value for key, value in trained.result["test"]["last"].items()}
        return trained


def _measured(
    config: Mapping[str, Any], data: Data, folder: Path, parts: Parts, distiller: Distiller, keep: KeepBest | None
) -> Trained:
    """Tests the last and the best of every student, once each, and measures what they cost."""
    device = distiller.trainer.strategy.root_device
    parts.mode.move(device, torch.float32)
    loader = data.eval_loader("test", 256, rank=0, world=1, device=device)
    reference = cast("Callable[[Tensor], Tensor]", parts.mode.reference)
    teacher = predict(reference, loader)[0] if parts.mode.teachers else None
    rows: dict[str, Config] = {}
    weights: dict[str, dict[str, StateDict]] = {}
    targets = torch.empty(0)
    for name, student in parts.mode.validated().items():
        student.to(device).float()
        weights[name] = {"last": {key: value.detach().clone() for key, value in student.state_dict().items()}}
        if keep is not None and keep.file(name).is_file():
            weights[name]["best"] = load_file(keep.file(name))
        test = {}
        for which, state in weights[name].items():
            student.load_state_dict(state)
            logits, targets = predict(student_of(student), loader)
            test[which] = score(parts.task, logits, targets, teacher)
        student.load_state_dict(weights[name]["last"])
        seen = None if keep is None else keep.of[name]
        rows[name] = {
            "test": test,
            "validation": None
            if seen is None
            else {"metric": parts.task.primary, "best": seen.best, "best_epoch": seen.epoch, "last": seen.last},
            "bytes": len(save({key: value.cpu().contiguous() for key, value in weights[name]["last"].items()})),
            # Rebuilt, so that neither hooks nor compilation count: as the teacher and the student alone are measured.
            **cost(rebuild(parts.networks[name], config["allow"]), example_batch(config["data"])["input"]),
            "network": parts.networks[name],
        }
    name = _chosen(parts, keep, config["keep"])
    kept = weights[name].get(config["keep"], weights[name]["last"])
    save_weights(kept, folder / "student.safetensors")
    batch_size = min(config["trainer"]["batch_size"], len(data.labels))
    samples = distiller.steps * batch_size
    result = {
        **rows[name],
        "epochs": distiller.steps / distiller.steps_per_epoch,
        "seconds": distiller.seconds,
        "samples_per_second": samples / distiller.seconds if distiller.seconds else None,
        "kept": name,
        "peers": {other: row for other, row in rows.items() if other != name},
    }
    return Trained(kept, result, parts.task, teacher, targets, device)


def _strategy(settings: Mapping[str, Any], parts: Parts) -> str:
    """DDP looks for parameters without a gradient only where there may be some: it costs a walk over the graph."""
    strategy = str(settings["strategy"])
    silent = any(
        0 in (setup.objective.task_weight if phase.task_weight is None else phase.task_weight,
              *(term.weight_at(0) for term in setup.objective.terms))
        for phase, setup in zip(parts.phases, parts.setups, strict=True)
    )  # fmt: skip
    return "ddp_find_unused_parameters_true" if silent and (strategy == "ddp" or processes(settings) > 1) else strategy


def _chosen(parts: Parts, keep: KeepBest | None, which: str) -> str:
    """The student that is kept: that which was named, or the best by validation of those built like the first."""
    first, *others = parts.mode.validated()
    if parts.mode.kept != "best" or keep is None:
        return first
    for name in others:
        ours, theirs = (getattr(keep.of[student], which) for student in (name, first))
        if parts.networks[name] == parts.networks[first] and ours is not None and parts.task.better(ours, theirs):
            first = name
    return first
