"""`python -m kdlab.sweep sweeps/kd.yaml`: search over runs, refit what was found, compare it."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kdlab.core.errors import one_line
from kdlab.core.printable import masked

if TYPE_CHECKING:
    from kdlab.study.process_pool import TrialRunner
    from kdlab.study.spec import Plan

USAGE = """\
KEY=VALUE changes the study (workers=4, budget.trials=20, storage=postgresql://USER@HOST/DATABASE) or its runs
(data=cifar10, trainer.max_epochs=10). Several of these commands, on any machines, share one study where they share
its storage. A stopped study resumes with the same command, whatever stopped it."""


def _distillation() -> TrialRunner:
    from kdlab.study.trial import Distillation  # imports torch and Lightning: seconds, after the study is checked

    return Distillation()


@one_line
def main(arguments: Sequence[str] | None = None, work: Callable[[], TrialRunner] = _distillation) -> int:
    """Runs the command line; the exit code is 0, or 2 for what the user must change, or 1 where no trial, or not every
    refit, came to its end.

    Args:
        arguments: of the command line.
        work: makes what the trials run, instead of distilling.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # threads of this process would be missing in its forks
    parser = argparse.ArgumentParser(prog="python -m kdlab.sweep", description=__doc__, epilog=USAGE)
    parser.add_argument("study", type=Path, help="a YAML file, as in sweeps/")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--config-dir", action="append", default=[], type=Path, help="a folder of your own configs")
    given = parser.parse_args(arguments)
    sys.argv = [*map(masked, sys.argv)]  # which W&B publishes with every run
    from kdlab.study.spec_file import read_plan

    return conduct(read_plan(given.study, given.overrides, given.config_dir), work)


def conduct(plan: Plan, work: Callable[[], TrialRunner] = _distillation) -> int:
    """Runs a study to its end, or until it is interrupted.

    Raises:
        UsageError: before the first trial, where it is impossible.
    """
    import optuna

    from kdlab.core.terminal import say, terminal
    from kdlab.study import refit
    from kdlab.study.progress import ProgressView
    from kdlab.study.runner import StudyRunner

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        made = work()
        made.check(plan)
        search = StudyRunner(plan, made, ProgressView(plan.name))
        made.prepare(plan)
        final = search.run()
        made.publish(plan, final)
    except KeyboardInterrupt:
        print("kdlab: stopped; the same command resumes the study", file=sys.stderr)
        return 130
    say(terminal(), f"Everything is in {plan.folder}")
    if not search.complete:
        print("kdlab: no trial finished; see the reasons above", file=sys.stderr)
        return 1
    if final is None:
        if plan.settings.final.seeds:
            print("No finished trial meets the constraints, so nothing is refitted.")
        return 0
    if final["settings"]:
        terminal().print(refit.table(final))
    for sentence in refit.verdict(final):
        say(terminal(), sentence)
    return 1 if final["missing"] else 0


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    raise SystemExit(main())
