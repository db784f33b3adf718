"""`python -m kdlab.train model=mobilenet loss=kd`: compose a config, refuse a wrong one, train, print the table."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from kdlab.config.compose import compose, groups
from kdlab.core.errors import UsageError
from kdlab.data.check import check, check_normalisation
from kdlab.run.recipe import teachers_of
from kdlab.run.resume import read_stopped_run

KEYS = """\
keys that people change most (every key: --cfg job)
  seed=0                        another student: its weights, order, augmentation, dropout
  loss.temperature=4            of the softened probabilities
  loss.alpha=0.9                weight of the teacher; 1 - alpha is that of the labels
  loss.heads.NAME.weight=1      of one of several losses, loss=[kd,fitnet]
  model.width=0.5               how wide the student is
  teacher=resnet56              any option of model; teacher.checkpoint=FILE brings your own weights
  data.path=DIR                 a copy of the data set on this machine
  trainer.max_epochs=30         epochs; the teacher's own: teacher.trainer.max_epochs
  trainer.precision=bf16-mixed  or 16-mixed, 32-true, 64-true
  trainer=ddp trainer.devices=2 several devices
  optimizer.lr=0.05             learning rate; the teacher's own: teacher.optimizer.lr
  logger=csv                    no W&B
  resume=RUN                    go on with a run that stopped

examples
  python -m kdlab.train model=mobilenet loss=kd
  python -m kdlab.train model=resnet8x4 teacher=resnet32x4 data=cifar100 loss=[kd,fitnet] trainer.max_epochs=240
  python -m kdlab.train mode=supervised model=resnet20"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; the exit code is 0, 2 for what the user must change, 1 for what broke."""
    try:
        given = parse(sys.argv[1:] if arguments is None else arguments)
        config, resumed = read_config(given.overrides, given.config_dir)
        if given.cfg:
            import yaml

            print(yaml.safe_dump(config, sort_keys=False), end="")
            return 0
        return train(config, resumed, given.overrides)
    except UsageError as error:
        print(f"kdlab: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("kdlab: stopped before anything was begun", file=sys.stderr)
        return 130


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; --help lists what there is")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line: flags, and overrides of the config."""
    parser = _Parser(
        prog="python -m kdlab.train",
        description="Distil a teacher into a student, beside the same student trained alone.",
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


def read_config(overrides: Sequence[str], folders: Sequence[Path]) -> tuple[dict[str, Any], Path | None]:
    """The composed config, and the run folder to resume, if any.

    Raises:
        UsageError: where something given is wrong.
    """
    resumed = next((o.removeprefix("resume=") for o in overrides if o.startswith("resume=")), "")
    if not resumed or resumed == "null":
        return compose(overrides, folders), None
    if len(overrides) > 1:
        others = " ".join(o for o in overrides if not o.startswith("resume="))
        raise UsageError(f"resume={resumed} takes its config from that folder; leave out {others}")
    folder = Path(resumed).expanduser()
    return read_stopped_run(folder), folder


def train(config: Mapping[str, Any], resumed: Path | None, overrides: Sequence[str] = ()) -> int:
    """Checks a composed config as far as can be without training, then runs it."""
    check(config["data"])
    check_together(config)
    from kdlab.core.paths import home
    from kdlab.run.builder import without_use
    from kdlab.run.preflight import refuse_hardware, rehearse

    try:
        used = without_use(config)
        refuse_hardware(config["trainer"])
        rehearse(used)
    except ValueError as error:
        raise UsageError(" ".join(str(error).split())) from error
    try:
        home().mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=home()).close()
    except OSError as error:
        raise UsageError(f"KDLAB_HOME={home()}: nothing can be written there ({error.strerror})") from error
    from kdlab.data.dataset import load

    data = load(config["data"], config["allow"])
    for override in useless(overrides, used):
        print(f"kdlab: {override} has no use with mode={config['names']['mode']}", file=sys.stderr)
    from kdlab.run.execute import name_of, new_folder, run
    from kdlab.run.result import print_table
    from kdlab.training.loss_buffer import DivergedError

    try:
        folder = resumed or new_folder(Path(config["runs"]), config["name"] or name_of(config))
    except OSError as error:
        raise UsageError(f"runs={config['runs']}: no folder can be made there ({error.strerror})") from error
    try:
        outcome = run(config, data=data, folder=folder, resume=resumed is not None)
    except DivergedError as error:
        print(f"kdlab: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"kdlab: stopped; go on with python -m kdlab.train resume={folder}", file=sys.stderr)
        return 130
    if outcome is not None:
        print_table(outcome.result)
        print(f"Everything is in {outcome.folder}")
    return 0


def useless(overrides: Sequence[str], used: Mapping[str, Any]) -> list[str]:
    """The overrides of what the chosen mode has no use for."""
    peers = used["mode"].get("peers")
    there = {
        "teacher": used["teacher"] or (isinstance(peers, dict) and "teacher" in peers),
        "loss": used["loss"]["heads"],
        "scheduler": not used["mode"].get("scheduler"),
    }
    gone = [group for group, use in there.items() if not use]
    return [o for o in overrides if any(o.lstrip("+").startswith((f"{g}=", f"{g}.", f"model@{g}.")) for g in gone)]


def check_together(config: Mapping[str, Any]) -> None:
    """Refuses settings that contradict each other, and a checkpoint that is not there, before torch is imported."""
    trainer = config["trainer"]
    if config["keep"] == "best" and not config["data"]["validation"]:
        raise UsageError("keep=best needs samples to choose by; set data.validation=COUNT, or keep=last")
    if trainer["batch_size"] % trainer["accumulate"]:
        raise UsageError(f"trainer.accumulate={trainer['accumulate']} does not divide "
                         f"trainer.batch_size={trainer['batch_size']} into equal parts")  # fmt: skip
    if (classes := config["task"].get("classes", config["data"]["classes"])) != config["data"]["classes"]:
        raise UsageError(f"task.classes={classes}, but the data has {config['data']['classes']} classes; leave it out")
    modes = {str(phase.get("mode") or config["mode"]) for phase in config["phases"] or []}
    if trainer["compile"] and len(modes) > 1:
        raise UsageError("trainer.compile=true hooks networks once, and these phases change the mode; set it to false")
    for teacher in teachers_of(config):
        check_normalisation("teacher", teacher, config["data"]["channels"])
        if (checkpoint := teacher.get("checkpoint")) and not Path(checkpoint).is_file():
            raise UsageError(f"teacher.checkpoint={checkpoint}: there is no such file")


if __name__ == "__main__":
    raise SystemExit(main())
