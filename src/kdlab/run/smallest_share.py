"""Tries the smallest part of a batch that a step will see, where that is a single sample.

Batch normalisation refuses a single value per channel and a relation a single row, and neither shows in the dry run,
whose batch has two. The last batch of an epoch has two samples a part or more (`kdlab.data.loader.last_batch`).
"""

from __future__ import annotations

import torch

from kdlab.config.schema import FitConfig, RunConfig
from kdlab.core.errors import UsageError
from kdlab.core.knowledge import Batch, Progress
from kdlab.training.freezing import freeze
from kdlab.training.objective import Counts
from kdlab.training.setup import Parts

STEPS = 2
"""As many as show everything: a mode that repeats its last batch has none in the first."""


def smallest_share(trainer: FitConfig, samples: int | None, ranks: int) -> int:
    """How many samples the smallest part of a rank's batch has.

    Args:
        trainer: its batch size, and the parts that each rank splits its share into.
        samples: in the training set; None: more than a batch.
        ranks: among which a batch is divided.
    """
    batch = trainer.batch_size if samples is None else min(trainer.batch_size, samples // ranks * ranks)
    return batch // ranks // trainer.accumulate


def check_share(config: RunConfig, samples: int | None, ranks: int, key: str) -> bool:
    """Whether the smallest part of a batch is a single sample, and must be tried.

    Raises:
        UsageError: where a part has no sample, or one to be mixed with others.
    """
    share = smallest_share(config.trainer, samples, ranks)
    if share < 1:
        raise UsageError(
            f"{_cause(config, samples, ranks, key)} leaves some of a batch's {ranks * config.trainer.accumulate} parts "
            "without a sample"
        )
    if share == 1 and config.trainer.accumulate == 1:
        for name in ("mixup", "cutmix"):
            if (config.data.augment or {}).get(name):
                raise UsageError(
                    f"{_cause(config, samples, ranks, key)} leaves a single sample in a batch, and "
                    f"data.augment.{name} mixes the samples of a batch with each other"
                )
    return share == 1


def try_share(config: RunConfig, parts: Parts, batch: Batch, samples: int | None, ranks: int, key: str) -> None:
    """Tries steps over a part of a batch; the parts, which they change, are of no use afterwards.

    Raises:
        UsageError: where one fails, naming the key that makes the part so small.
    """
    try:
        try_steps(parts, batch)
    except (ValueError, RuntimeError) as error:  # torch raises both
        raise UsageError(
            f"{_cause(config, samples, ranks, key)} leaves a single sample in a part of a batch: "
            f"{' '.join(str(error).split())}"
        ) from error


def try_steps(parts: Parts, batch: Batch) -> None:
    """Computes, in every phase, loss and gradients of steps as training does, and leaves the random state alone."""
    seen = parts.task.by_row({**batch, "views": dict.fromkeys(parts.views, batch)} if parts.views else batch)
    can_train = {
        parameter
        for setup in parts.setups
        for parameter in (*setup.mode.parameters(), *setup.objective.parameters())
        if parameter.requires_grad
    }
    with torch.random.fork_rng():
        for phase, setup in zip(parts.phases, parts.setups, strict=True):
            if not phase.epochs:
                continue
            parts.close()
            setup.objective.listen(setup.mode)
            freeze(setup, phase, can_train)
            mode, objective = setup.mode.train(), setup.objective.train()
            task_weight = objective.task_weight if phase.task_weight is None else phase.task_weight
            ask = mode.taught if phase.prepare and not task_weight else mode
            labelled = parts.task.labelled(seen["target"])
            counts = Counts(float(len(labelled)), labelled.sum().clamp(min=1))
            mode.begin_epoch(Progress(epochs=phase.epochs))
            for step in range(STEPS):
                progress = Progress(0, step, phase.epochs, phase.epochs * STEPS)
                loss, _ = objective(
                    ask(seen, progress), counts, progress,
                    heads=phase.heads, task_weight=phase.task_weight, prepare=phase.prepare,
                )  # fmt: skip
                if loss.requires_grad:
                    trained = [parameter for parameter in can_train if parameter.requires_grad]
                    torch.autograd.grad(loss, trained, allow_unused=True)
                mode.after_step(progress)
    parts.close()


def _cause(config: RunConfig, samples: int | None, ranks: int, key: str) -> str:
    """The setting that makes a part so small, `KEY=VALUE`."""
    trainer = config.trainer
    if samples is not None and samples < 2 * ranks:
        return f"data.subset={samples}" if config.data.subset == samples else f"data.path: {samples} training samples"
    if trainer.accumulate > 1:
        return f"{key}trainer.accumulate={trainer.accumulate}"
    return f"{key}trainer.batch_size={trainer.batch_size}"
