"""`python -m kdlab.train model=mobilenet loss=kd`: compose a config, refuse a wrong one, train, print the table."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from kdlab.config.compose import compose, groups
from kdlab.config.overrides import packages_of
from kdlab.config.schema import RunConfig
from kdlab.core.errors import UsageError, one_line
from kdlab.core.system_errors import explained, system_error
from kdlab.run.contradictions import check_settings

KEYS = """\
keys that people change most (every key: --cfg job)
  seed=0                        another student: its weights, order, augmentation, dropout
  loss.temperature=4            of the softened probabilities
  loss.alpha=0.9                weight of the teacher; 1 - alpha is that of the labels
  loss.heads.NAME.weight=1      of one of several losses, loss=[kd,fitnet]
  model.width=0.5               width of the student
  teacher=resnet56              any option of model; teacher.checkpoint=FILE brings your own weights
  data.path=DIR                 a copy of the data set on this machine
  trainer.max_epochs=30         epochs; the teacher's own: teacher.trainer.max_epochs
  trainer.precision=bf16-mixed  or 16-mixed, 32-true, 64-true
  trainer=ddp trainer.devices=2 several devices
  optimizer.lr=0.05             learning rate; the teacher's own: teacher.optimizer.lr
  logger=csv                    no W&B
  resume=RUN                    resume a stopped run
  allow=[PACKAGE]               run classes of your own package that a config file, or a resumed run, names

examples
  python -m kdlab.train model=mobilenet loss=kd
  python -m kdlab.train model=resnet8x4 teacher=resnet32x4 data=cifar100 loss=[kd,fitnet] trainer.max_epochs=240
  python -m kdlab.train mode=supervised model=resnet20"""


@one_line
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; the exit code is 0, 2 for what the user must change, 1 for an error."""
    try:
        given = parse(sys.argv[1:] if arguments is None else arguments)
        if (stopped := _resumed(given.overrides)) is not None:
            from kdlab.run.resume import read_stopped_run

            folder, allow = stopped
            return train(read_stopped_run(folder, allow), resume=folder)
        config = compose(given.overrides, given.config_dir)
        if given.cfg:
            import yaml

            print(yaml.safe_dump(config.plain(), sort_keys=False), end="")
            return 0
        check_settings(config)  # as the preflight does, but before torch is imported
        from kdlab.run.derive import drop_unused, unused_overrides

        used = drop_unused(config)
        return train(used, notes=unused_overrides(given.overrides, used))
    except KeyboardInterrupt:
        print("kdlab: stopped before anything had started", file=sys.stderr)
        return 130


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; --help lists all options")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line: flags, and overrides of the config."""
    parser = _Parser(
        prog="python -m kdlab.train",
        description="Distil a teacher into a student, and compare with the same student trained alone.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="an option of a group, or a value of a key")
    parser.add_argument(
        "--config-dir", action="append", default=[], type=Path, help="a folder of your own config files"
    )
    parser.add_argument("--cfg", choices=["job"], help="print the composed config and stop")
    parser.add_argument("-h", "--help", action="store_true", help="print this")
    found = parser.parse_intermixed_args(arguments)
    if found.help:
        options = "\n".join(f"  {group + '=':13}{' '.join(names)}" for group, names in groups(found.config_dir).items())
        parser.epilog = f"groups and their options\n{options}\n\n{KEYS}"
        parser.print_help()
        raise SystemExit(0)
    return found


def train(config: RunConfig, resume: Path | None = None, notes: Sequence[str] = ()) -> int:
    """Checks a run as far as can be without training, then trains.

    Args:
        config: without what its mode does not use.
        resume: the folder of a stopped run to continue.
        notes: what to tell on stderr once the run is known to be possible.
    """
    from kdlab.run.preflight import Preflight, check_samples

    Preflight().check(config)
    from kdlab.data.dataset import load

    data = load(config.data.plain(), config.allow)
    check_samples(config, data)
    for note in notes:
        print(f"kdlab: {note}", file=sys.stderr)
    from kdlab.run.execute import run
    from kdlab.run.folder import new_folder
    from kdlab.run.result import print_table
    from kdlab.run.resume import resume_command
    from kdlab.training.loss_buffer import DivergedError

    try:
        folder = resume or new_folder(config)
    except OSError as error:
        raise UsageError(f"runs={config.runs}: cannot create a folder there ({error.strerror})") from error
    try:
        outcome = run(config, data=data, folder=folder, resume=resume is not None)
    except DivergedError as error:
        print(f"kdlab: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"kdlab: stopped; resume with {resume_command(folder, config.allow)}", file=sys.stderr)
        return 130
    except UsageError:
        raise
    except Exception as error:
        if (refused := system_error(error)) is None:
            raise
        raise UsageError(f"{explained(refused)}; then resume with {resume_command(folder, config.allow)}") from error
    if outcome is not None:
        print_table(outcome.result)
        print(f"Everything is in {outcome.folder}")
    return 0


def _resumed(overrides: Sequence[str]) -> tuple[Path, list[str]] | None:
    """The run folder to resume, if any, and the packages of the user's own that it may use."""
    given = next((o.removeprefix("resume=") for o in overrides if o.startswith("resume=")), "")
    if not given or given == "null":
        return None
    others = [o for o in overrides if not o.startswith("resume=")]
    allowed = {override: packages_of(override) for override in others}
    if left := " ".join(override for override, packages in allowed.items() if packages is None):
        raise UsageError(f"resume={given} takes its config from that folder; leave out {left}")
    return Path(given).expanduser(), [name for packages in allowed.values() for name in packages or ()]


if __name__ == "__main__":
    raise SystemExit(main())
