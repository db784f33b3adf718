"""Tries a study's sampler and pruner on a study in memory, so that one that cannot work is refused before any trial."""

from __future__ import annotations

import logging
import random
import warnings
from collections.abc import Mapping, Sequence

import optuna
from optuna.study import StudyDirection
from optuna.trial import TrialState

from kdlab.core.errors import UsageError
from kdlab.study.schema import StudyConfig
from kdlab.study.search_space import Dimension, suggest
from kdlab.study.spec import make_pruner, make_sampler

KNOWN_TO_FAIL: Mapping[str, str] = {
    "BruteForceSampler": "it ends a study by itself, which only Optuna's own loop allows",
    "GridSampler": "it ends a study by itself, which only Optuna's own loop allows",
    "PartialFixedSampler": "set what is fixed as an override instead, overrides=[KEY=VALUE]",
}
"""Samplers that fail late, by their class, and why."""

PLAIN = ("optuna.samplers.TPESampler", "optuna.samplers.RandomSampler")
"""Samplers that need no rehearsal where they have no settings."""

TRIALS = 12
"""More than any sampler draws at random before it begins."""

EPOCHS = 12


def rehearse(settings: StudyConfig, spaces: Sequence[Sequence[Dimension]], objectives: Mapping[str, str]) -> None:
    """Draws a trial after some random ones in each space, and reports to the pruner.

    Raises:
        UsageError: in a line, where either fails.
    """
    name = str(settings.sampler.get("_target_")).rpartition(".")[2]
    if name in KNOWN_TO_FAIL:
        raise UsageError(f"sampler._target_={settings.sampler['_target_']} cannot be used here: {KNOWN_TO_FAIL[name]}")
    plain = len(settings.sampler) == 1 and settings.sampler["_target_"] in PLAIN
    if plain and settings.pruner is None:
        return
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for space in spaces:
                _rehearse(settings, space, [StudyDirection[way.upper()] for way in objectives.values()])
    finally:
        optuna.logging.set_verbosity(verbosity)


def _rehearse(settings: StudyConfig, space: Sequence[Dimension], directions: Sequence[StudyDirection]) -> None:
    study = optuna.create_study(directions=list(directions), pruner=make_pruner(settings.pruner),
                                sampler=optuna.samplers.RandomSampler(seed=0))  # fmt: skip
    draw = random.Random(0)
    for _ in range(TRIALS):
        trial = study.ask()
        suggest(trial, space)
        for epoch in range(1, EPOCHS + 1) if len(directions) == 1 else ():
            trial.report(draw.random(), epoch)
        study.tell(trial, [draw.random() for _ in directions])
    try:
        study.sampler = make_sampler(settings.sampler, settings.seed, TRIALS)
        trial = study.ask()
        suggest(trial, space)
    except Exception as error:
        raise UsageError(f"sampler: {_said(error)}") from error
    if len(directions) > 1 or settings.pruner is None:
        return
    try:
        for sign in (1, -1):  # a curve that gets better and one that gets worse
            for epoch in range(1, EPOCHS + 1):
                trial.report(sign * epoch, epoch)
                study.pruner.prune(study, study.trials[trial.number])
            study.tell(trial, state=TrialState.PRUNED)
            trial = study.ask()
    except Exception as error:
        raise UsageError(f"pruner: {_said(error)}") from error


def _said(error: Exception) -> str:
    missing = f"; pip install {error.name}" if isinstance(error, ImportError) and error.name else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())}{missing}"
