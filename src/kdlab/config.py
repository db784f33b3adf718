"""Composes a run's config from `conf/`, and refuses a wrong one in one line. The one file that knows Hydra.

The YAML files are the schema: a key must exist there, and its value keeps the type it has there. What
a type cannot say (a temperature is positive) stands in `RULES`, by the last part of the key. Nothing here
imports torch, so that a slip of the keyboard is answered at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from kdlab.errors import UsageError, nearest
from kdlab.proposals import is_set, proposals

Config = dict[str, Any]

DIALS = ("alpha", "temperature")

Rule = tuple[Callable[[Any], bool], str]
_POSITIVE: Rule = (lambda value: value > 0, "a number above 0")
_NOT_NEGATIVE: Rule = (lambda value: value >= 0, "0 or more")
_UNIT: Rule = (lambda value: 0 <= value <= 1, "a number from 0 to 1")
_BELOW_ONE: Rule = (lambda value: 0 <= value < 1, "a number from 0 up to, not including, 1")
_WHOLE: Rule = (lambda value: isinstance(value, int) and value >= 0, "a whole number, 0 or more")
_COUNT: Rule = (lambda value: isinstance(value, int) and value >= 1, "a whole number, 1 or more")


def _one_of(*options: str) -> Rule:
    return (lambda value: value in options, " or ".join(options))


RULES: Mapping[str, Rule] = {
    **dict.fromkeys(("temperature", "width", "gamma", "span", "lr", "max_lr", "gradient_clip", "size"), _POSITIVE),
    **dict.fromkeys(("weight", "task_weight", "weight_decay", "mixup", "cutmix", "ramp"), _NOT_NEGATIVE),
    **dict.fromkeys(("alpha", "pct_start", "translation"), _UNIT),
    **dict.fromkeys(("momentum", "label_smoothing", "decay"), _BELOW_ONE),
    **dict.fromkeys(("max_epochs", "epochs", "seed", "split_seed", "workers", "crop"), _WHOLE),
    **dict.fromkeys(
        ("batch_size", "accumulate", "classes", "channels", "num_nodes", "log_every_n_steps", "depth", "subset",
         "checkpoint_every_n_steps", "max_steps", "generations", "branches", "cycles"), _COUNT),
    "validation": _NOT_NEGATIVE,
    "precision": _one_of("32-true", "16-mixed", "bf16-mixed", "64-true", "bf16-true", "16-true"),
    "interval": _one_of("epoch", "step"),
    "keep": _one_of("last", "best"),
    "train": _one_of("all", "head", "body"),
    "on_corrupt": _one_of("stop", "skip"),
}  # fmt: skip


def conf_folder() -> Path:
    """The folder of the config files: beside `src/` in a checkout, inside the package in a wheel."""
    checkout = Path(__file__).parents[2] / "conf"
    return checkout if (checkout / "train.yaml").is_file() else Path(__file__).parent / "conf"


def groups(folders: Sequence[Path] = ()) -> dict[str, list[str]]:
    """Every group of the config with its options, from the folders of YAML files; nested groups by `a/b`."""
    found: dict[str, set[str]] = {}
    for folder in (conf_folder(), *folders):
        for file in folder.rglob("*.yaml"):
            parts = file.relative_to(folder).with_suffix("").parts
            if len(parts) > 1:
                found.setdefault(parts[0], set()).add("/".join(parts[1:]))
    return {group: sorted(options) for group, options in sorted(found.items())}


def compose(overrides: Sequence[str] = (), folders: Sequence[Path] = (), root: str = "train") -> Config:
    """The config of a run: composed, checked, its dials set, as plain data.

    Args:
        overrides: as on the command line, `model=mobilenet`, `loss.temperature=2`, `teacher=resnet56`.
        folders: further folders of config files, searched before kdlab's own.
        root: the root file.

    Raises:
        UsageError: naming the key, the value and what would be right.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    OmegaConf.register_new_resolver("complement", lambda value: round(1 - value, 12), replace=True)
    known = groups(folders)
    search = [str(folder.resolve()) for folder in folders]
    for folder in search:
        if not Path(folder).is_dir():
            raise UsageError(f"--config-dir {folder}: there is no such folder")
    overrides = [spelled for override in overrides for spelled in _spelled(override, known)]
    try:
        parsed = OverridesParser.create().parse_overrides(overrides)
        choices = [str(o.input_line) for o in parsed if _is_choice(o.key_or_group, o.value(), known)]
        values = [o for o in parsed if o.input_line not in choices]
        if any(override.is_sweep_override() for override in parsed):
            raise UsageError("a list of values in one key is a study: write it in a file for python -m kdlab.sweep")
        if search:
            choices.append(f"hydra.searchpath=[{','.join(search)}]")
        GlobalHydra.instance().clear()
        with initialize_config_dir(str(conf_folder()), version_base="1.3"):
            base = hydra_compose(root, overrides=choices, return_hydra_config=True)
            given = [override.key_or_group for override in parsed]
            options, proposed = proposals(_plain(OmegaConf.to_container(base.mode)), given, known)
            if options:
                base = hydra_compose(root, overrides=[*choices, *options], return_hydra_config=True)
        made = base.hydra.runtime.choices
        OmegaConf.set_struct(base, False)
        base.pop("hydra")
        _tune(base.loss)
        shape = _plain(OmegaConf.to_container(base))
        for override in values:
            key, value = override.key_or_group, override.value()
            if override.is_delete():
                raise UsageError(f"~{key} would leave a hole; set {key}=null instead")
            if not override.is_add():
                _check_known(key, shape)
            _check_value(key, value, _lookup(shape, key))
            OmegaConf.update(base, key, value, force_add=override.is_add())
        for key, value in proposed.items():
            if not is_set(key, _lookup(shape, key), given):
                _check_known(key, shape)
                OmegaConf.update(base, key, value)
        config = _plain(OmegaConf.to_container(base))
        _set_dials(config)
        resolved = _plain(OmegaConf.to_container(OmegaConf.create(config), resolve=True, throw_on_missing=True))
    except HydraException as error:
        raise UsageError(" ".join(str(error).split())) from error
    except OmegaConfBaseException as error:
        raise UsageError(str(error).splitlines()[0]) from error
    _set_task_weight(resolved)
    _follow_generations(resolved)
    check(resolved)
    chosen = {group: made[group] for group in ("model", "mode", "data", "task")}
    names = {**chosen, "teacher": made.get("model@teacher.model"), "loss": "+".join(resolved["loss"]["heads"])}
    return {**resolved, "names": names}


def check(config: Mapping[str, Any]) -> None:
    """Refuses a value outside its range, wherever it stands.

    Raises:
        UsageError: naming key, value and range.
    """
    for key, value in leaves(config):
        if isinstance(value, float) and not math.isfinite(value):
            raise UsageError(f"{key}={value}: expected a finite number")
        name = key.rsplit(".", 1)[-1]
        rule = RULES.get(name, _NOT_NEGATIVE if name.endswith("_weight") else None)
        if rule is None or value is None or isinstance(value, (dict, list)):
            continue
        holds, expected = rule
        try:
            fine = not isinstance(value, bool) and holds(value)
        except TypeError:
            fine = False
        if not fine:
            raise UsageError(f"{key}={value}: expected {expected}")


def leaves(config: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) for every value of a nested config that is no mapping."""
    if not isinstance(config, Mapping):
        yield key, config
        return
    for name, value in config.items():
        yield from leaves(value, f"{key}.{name}" if key else str(name))


def _spelled(override: str, known: Mapping[str, list[str]]) -> list[str]:
    """`teacher=resnet56` stands for one teacher of that model, `teacher=[resnet56,vgg13]` for two.

    `teacher.teacher=resnet110` is the teacher's own. A model that stands twice in a list has two seeds.
    `mode.peers=[resnet56,vgg13]` names the models of a mode's peers.
    """
    key, equals, value = override.partition("=")
    if key == "mode.peers" and value.startswith("["):
        peers = [name.strip() for name in value.strip("[]").split(",")]
        return [f"+model@mode.peers.peer{place}={name}" for place, name in enumerate(peers, start=1)]
    if key == "experiment":
        return _overlay(value, known)
    if not equals or key.split(".") != ["teacher"] * len(key.split(".")):
        return [override]
    if not value.startswith("["):
        alone = value in known["model"] and value not in known["teacher"]
        return [f"model@{key}.model={value}" if alone else override]
    members = [name.strip() for name in value.strip("[]").split(",")]
    spelled = [f"{key}=ensemble"]
    for place, name in enumerate(members):
        member = f"{key}.members.m{place}"
        spelled += [f"+teacher@{member}=single", f"model@{member}.model={name}"]
        spelled += [f"{member}.seed={members[:place].count(name)}"]
    return spelled


def _overlay(value: str, known: Mapping[str, list[str]]) -> list[str]:
    """`cifar100/dkd_vgg13_vgg8` stands for the overlay `cifar100/vgg13_vgg8` with that loss, or that of a method."""
    folder, _, name = value.rpartition("/")
    overlays = known["experiment"]
    for place, letter in enumerate("" if value in overlays else name):
        method, pair = name[:place], f"{folder}/{name[place + 1 :]}"
        if letter == "_" and pair in overlays:
            if f"{folder}/{method}" in overlays:
                return [f"experiment=[{pair},{folder}/{method}]"]
            if method in known["loss"]:
                return [f"experiment={pair}", f"loss={method}"]
    return [f"experiment={value}"]


def _is_choice(key: str, value: Any, known: Mapping[str, list[str]]) -> bool:
    group = key.split("@")[0]
    if "." in group or group not in known:
        return False
    for option in value if isinstance(value, list) else [value]:
        options = known[group] if group != "teacher" else known["teacher"] + known["model"]
        if option is not None and option not in options:
            raise UsageError(f"{group}={option}: no such option{nearest(str(option), options)}")
    return True


def _check_known(key: str, shape: Mapping[str, Any]) -> None:
    if _lookup(shape, key) is not _ABSENT:
        return
    known = [name for name, _ in leaves(shape)] + list(shape)
    where, _, last = key.rpartition(".")
    beside = _lookup(shape, where) if where else shape
    if isinstance(beside, Mapping) and beside:
        near = nearest(last, map(str, beside))
        raise UsageError(f"{key}: {where or 'the config'} has no key {last}{near}")
    raise UsageError(f"{key}: there is no such key{nearest(key, known)}")


def _check_value(key: str, value: Any, default: Any) -> None:
    if value is None or default is None or default is _ABSENT:
        return
    if isinstance(default, str) and "${" in default:
        return
    expected = type(default)
    fits = isinstance(value, expected) and isinstance(value, bool) == isinstance(default, bool)
    if isinstance(default, float):
        fits = isinstance(value, (int, float)) and not isinstance(value, bool)
    if expected is int and isinstance(value, float) and key.rsplit(".", 1)[-1] == "validation":
        fits = True
    if isinstance(default, str) and key.rsplit(".", 1)[-1] in ("devices", "resident", "T_max", "T_0", "total_steps"):
        fits = True
    if expected is int and key.endswith("devices"):
        fits = fits or value == "auto" or isinstance(value, list)
    if not fits:
        names = {float: "a number", int: "a whole number", bool: "true or false", str: "a word", list: "a list",
                 dict: "a group of keys"}  # fmt: skip
        raise UsageError(f"{key}={value}: expected {names.get(expected, expected.__name__)}, as in {key}={default}")


def _tune(loss: Any) -> None:
    """Gives the chosen losses the settings that an overlay has for them in `loss.tuned`, and drops the others'."""
    from omegaconf import OmegaConf

    for name, settings in loss.pop("tuned", {}).items():
        if name in loss.heads:
            OmegaConf.update(loss, f"heads.{name}", settings, merge=True)


def _set_dials(config: Config, path: str = "") -> None:
    """Fills `loss.alpha` and `loss.temperature` from what the chosen losses publish, and drops what only tells that.

    A loss reads a dial where its settings refer to it, `${...temperature}`: by a relative path, so that the
    losses of a run and those of its teacher's own training each have dials of their own.
    """
    if isinstance(config.get("teacher"), dict):
        _set_dials(config["teacher"], f"{path}teacher.")
    if isinstance(config.get("mode"), dict):
        config["mode"].pop("proposes", None)
    loss = config.get("loss")
    if not isinstance(loss, dict):
        return
    published = loss.pop("published", {})
    loss.pop("space", None)
    heads = loss.get("heads", {})
    for dial in DIALS:
        reference = f"...{dial}}}"
        readers = [name for name, head in heads.items() if any(reference in str(v) for _, v in leaves(head))]
        proposals = {name: published[name][dial] for name in readers}
        if loss.setdefault(dial, None) is not None:
            if not readers:
                chosen = ", ".join(heads)
                raise UsageError(f"{path}loss.{dial}={loss[dial]} has no use: none of {chosen} reads it")
        elif len(set(proposals.values())) > 1:
            said = ", ".join(f"{name} {value}" for name, value in proposals.items())
            raise UsageError(f"{path}loss.{dial}: the chosen losses disagree ({said}); set {path}loss.{dial}=VALUE")
        elif proposals:
            loss[dial] = next(iter(proposals.values()))
    for dial in DIALS:  # before anything is computed from them
        check({"loss": {dial: loss.get(dial)}})


def _set_task_weight(config: Config) -> None:
    if isinstance(config.get("teacher"), dict):
        _set_task_weight(config["teacher"])
    loss = config.get("loss")
    if loss and loss.get("task_weight") is None:
        loss["task_weight"] = round(math.prod(head.get("task_weight", 1.0) for head in loss["heads"].values()), 12)


def _follow_generations(config: Config) -> None:
    """`generations=3`: three students in a row, each taught by the one before, the first by one trained alone.

    Furlanello et al. Born-Again Neural Networks. ICML 2018. The teachers are students themselves, each with
    a seed of its own, and all else as this run has it.
    """
    generations = config.pop("generations")
    if generations is None:
        return
    own = {key: config[key] for key in ("model", "optimizer", "scheduler")}
    trainer = {key: config["trainer"][key] for key in config["teacher"]["trainer"]}
    teacher = {**config["teacher"], **own, "trainer": trainer, "checkpoint": None}
    taught = {key: config[key] for key in ("mode", "loss", "phases")}
    chain = None
    for generation in range(generations):
        links = {**taught, "teacher": chain} if chain else {"mode": None, "loss": None, "teacher": None}
        chain = deepcopy({**teacher, **links, "seed": config["seed"] + 1 + generation})
    config["teacher"] = chain


def _plain(container: Any) -> Config:
    assert isinstance(container, dict)
    return container


_ABSENT = object()


def _lookup(config: Any, key: str) -> Any:
    for part in key.split("."):
        if not isinstance(config, Mapping) or part not in config:
            return _ABSENT
        config = config[part]
    return deepcopy(config)
