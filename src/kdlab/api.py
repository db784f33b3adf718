"""`kdlab.distill(student, teacher, train, validation, loss=KD(temperature=4))`: any networks, any DataLoader.

No config, no store, no run folder: the same Distiller, assembled directly.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from copy import deepcopy
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR

from kdlab.config.ranges import check
from kdlab.core.errors import UsageError
from kdlab.core.knowledge import Batch, Context, samples_of
from kdlab.core.reading import cast
from kdlab.core.rng import seed_all, seed_of
from kdlab.data.adapter import Foreign, smallest
from kdlab.heads.head import Head
from kdlab.modes.mode import Cast
from kdlab.modes.offline import Offline
from kdlab.networks.observer import ROW_PER_SAMPLE, find_taps
from kdlab.networks.teacher import Observed, Teacher
from kdlab.networks.weights import load_weights
from kdlab.run.evaluation import TEACHER, Predict, judge, prediction_of
from kdlab.run.preflight import check_steps, check_trains
from kdlab.run.smallest_share import try_steps
from kdlab.tasks.classification import Classification
from kdlab.tasks.task import Task
from kdlab.training.callbacks import KeepBest, ProgressLine, interruptible
from kdlab.training.distiller import Distiller
from kdlab.training.objective import Objective, Term
from kdlab.training.phase_setup import PhaseSetup
from kdlab.training.phases import Phase
from kdlab.training.setup import Parts

INSTEAD = {"max_epochs": "epochs", "gradient_clip_val": "gradient_clip"}
"""What to write instead of arguments of `lightning.Trainer`, which clips only in steps that it does itself."""

SHORTER = frozenset({"limit_train_batches", "max_steps", "fast_dev_run", "overfit_batches"})
"""Arguments of `lightning.Trainer` with which the last batch of an epoch may never come."""


def distill(
    student: nn.Module,
    teacher: nn.Module,
    train: Iterable[Any],
    validation: Iterable[Any] | None = None,
    *,
    loss: Head | Sequence[Term],
    alpha: float = 0.9,
    task: Task | None = None,
    epochs: int = 30,
    optimizer: Callable[[Iterable[nn.Parameter]], Optimizer] | None = None,
    gradient_clip: float | None = None,
    seed: int = 0,
    keep: str = "last",
    callbacks: Sequence[pl.Callback] = (),
    **trainer: Any,
) -> tuple[nn.Module, dict[str, Any]]:
    """Trains `student`, in place, with the labels and with `teacher`.

    Args:
        student, teacher: any modules from an input, a tensor or a mapping of named ones, to logits that the task reads:
            [B, C], unless it says otherwise. A frozen copy of the teacher is used; the
            teacher itself does not change.
        train, validation: DataLoaders, or anything with a length that yields (input, target) pairs or dicts of them.
        loss: one head, with weight `alpha` and labels of weight 1 - alpha; or Terms with their own weights, and
            labels of weight 1.
        task: what is supervised; by default classification with the teacher's number of classes.
        epochs: passes over `train`, cut short by `limit_train_batches`, with a learning rate that falls
            along half a cosine.
        optimizer: built from the parameters; by default SGD with rate 0.05, momentum 0.9, weight decay 5e-4.
        gradient_clip: the largest total norm of all gradients.
        seed: of heads, dropout and all other randomness here, except the loader's order.
        keep: `last` or `best`, the epoch whose weights the student has in the end.
        callbacks: of Lightning, besides kdlab's own.
        trainer: further arguments of `lightning.Trainer`.

    Returns:
        The student, and its validation metrics: `last`, `best`, `best_epoch`, `teacher`. Where training ended before a
        validation, the best epoch is None, and `best` is `last`.

    Raises:
        ValueError: where the two networks cannot be compared by this loss, or another argument is wrong.
    """
    check({"alpha": alpha, "epochs": epochs, "gradient_clip": gradient_clip})
    for name in INSTEAD.keys() & trainer.keys():
        raise UsageError(f"{name}={trainer[name]}: write {INSTEAD[name]}={trainer[name]}")
    if keep not in ("last", "best") or (keep == "best" and validation is None):
        raise UsageError(f"keep={keep!r}: expected 'last', or with validation 'best'")
    terms = _terms(loss, alpha)
    seed_all(seed)
    batches = _counted("train", train)
    held_out = None if validation is None else _counted("validation", validation)
    first: Batch = next(iter(Foreign(train)))
    example = samples_of(first, 0, 2)
    copy = deepcopy(teacher).cpu()
    frozen = Teacher("teacher", copy, find_taps(copy, example["input"]), task or ROW_PER_SAMPLE)
    classes = frozen.example(example).knowledge.logits.shape[1]
    task = task or Classification(classes)
    if validation is not None:
        _refuse_shares(task, task.targets(next(iter(Foreign(validation)))))
    context = Context(classes, len(batches) * len(first["index"]))
    task_weight = 1 - alpha if isinstance(loss, Head) else 1.0

    def together(network: nn.Module) -> Parts:
        learner = Observed("student", network.cpu().train(), find_taps(network, example["input"]), task)
        mode = Offline(Cast(lambda place=0: learner, (frozen,), context, example))
        try:
            objective = Objective(mode, task, terms, task_weight, context)
            objective.refuse_impossible(mode, index=batches.indexed)
            objective.build(mode, example, seed)
        except BaseException:
            mode.close()
            raise
        return Parts(task, (Phase(epochs=epochs),), (PhaseSetup(mode, objective),))

    whole = not trainer.keys() & SHORTER
    if (smallest(train, len(first["index"])) if whole else len(first["index"])) == 1:
        _try_single(together(deepcopy(student)), first)
    parts = together(student)
    mode = parts.mode
    with closing(parts), tempfile.TemporaryDirectory() as folder:
        make_optimizer = optimizer or _sgd
        check_trains(parts, 0, "loss")
        check_steps(make_optimizer, _cosine, epochs, "optimizer", "scheduler")
        best = KeepBest(Path(folder))
        fitting = pl.Trainer(
            max_epochs=epochs,
            callbacks=[*callbacks, *([] if held_out is None else [best]), ProgressLine("distill")],
            **{"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "devices": 1,
               "enable_model_summary": False, "num_sanity_val_steps": 0,
               "limit_val_batches": None if held_out is not None else 0, **trainer},
        )  # fmt: skip
        limit = fitting.limit_train_batches
        distiller = Distiller(
            parts,
            max(1, min(limit, len(batches)) if isinstance(limit, int) else int(limit * len(batches))),
            lambda parameters, _: make_optimizer(parameters),
            lambda made, _, epochs, steps: _cosine(made, epochs, steps),
            gradient_clip=gradient_clip,
        )
        seed_all(seed_of(seed, "training"))
        with interruptible(fitting):
            fitting.fit(distiller, batches, held_out or Foreign([]))
        mode.close()
        result: dict[str, Any] = {"seconds": distiller.seconds}
        if held_out is not None:
            result |= _validated(student.cpu(), deepcopy(teacher).cpu(), held_out, task, best, keep)
    return student.eval(), result


def _try_single(parts: Parts, first: Batch) -> None:
    with closing(parts):
        try:
            try_steps(parts, samples_of(first, 0, 1))
        except (ValueError, RuntimeError) as error:  # torch raises both
            raise UsageError(
                f"train: a batch has a single sample: {' '.join(str(error).split())}; type drop_last=True in its "
                "DataLoader, or another batch_size"
            ) from error


def _counted(name: str, given: Iterable[Any]) -> Foreign:
    batches = Foreign(given)
    try:
        count = len(batches)
    except TypeError as error:
        raise UsageError(
            f"{name}: {type(given).__name__} has no length; expected a DataLoader of a data set that has one, "
            "or a list of batches"
        ) from error
    if not count:
        raise UsageError(f"{name}: it has no batches" + "; leave it out" * (name == "validation"))
    return batches


def _refuse_shares(task: Task, target: Tensor) -> None:
    if task.has_labels and target.ndim > 1:
        raise UsageError(
            f"validation: targets {list(target.shape)} are shares of classes, which only training supports; "
            "expected classes [N], target.argmax(1)"
        )


def _terms(loss: Head | Sequence[Term], alpha: float) -> list[Term]:
    if isinstance(loss, Head):
        return [Term("loss", lambda: deepcopy(loss), alpha)]
    if not isinstance(loss, Sequence) or not loss or not all(isinstance(term, Term) for term in loss):
        raise UsageError('loss: expected a head such as KD(4.0), or Terms such as Term("kd", lambda: KD(4.0), 0.9)')
    return list(loss)


def _cosine(optimizer: Optimizer, epochs: int, steps: int) -> tuple[CosineAnnealingLR, str]:
    return CosineAnnealingLR(optimizer, max(1, steps)), "step"


def _sgd(parameters: Iterable[nn.Parameter]) -> Optimizer:
    return SGD(parameters, lr=0.05, momentum=0.9, weight_decay=5e-4)


def _validated(
    student: nn.Module, teacher: nn.Module, batches: Foreign, task: Task, best: KeepBest, keep: str
) -> dict[str, Any]:
    finest = deepcopy(student)
    if (file := best.file("student")).is_file():
        finest.load_state_dict(load_weights(file))
    ours = {"last": student, "best": finest}
    networks = {name: _judged(deepcopy(network), task) for name, network in ours.items()}
    found = judge(task, networks, batches, _judged(teacher, task))
    if keep == "best":
        student.load_state_dict(finest.state_dict())
    return {**found, "teacher": found[TEACHER], "best_epoch": best.of["student"].epoch}


def _judged(network: nn.Module, task: Task) -> Predict:
    # Networks and batches may be of any type, and with precision="64-true" not of the same one.
    predict = prediction_of(network.float(), task)
    return lambda batch: predict({**batch, "input": cast(batch["input"], torch.float32)})
