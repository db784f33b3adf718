"""Composes a run's config from `conf/`, and refuses a wrong one in one line. The one file that knows Hydra.

The YAML files are the schema: a key must exist there, and its value keeps the type it has there; what a type
cannot say stands in `values.py`. Nothing here imports torch, so that a slip of the keyboard is answered at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from kdlab.dials import set_dials, set_task_weight, tune
from kdlab.errors import UsageError, nearest
from kdlab.proposals import holds, modes_of, proposals
from kdlab.values import check, check_known, check_value, lookup

Config = dict[str, Any]


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
    OmegaConf.register_new_resolver("eighth", lambda value: value // 8, replace=True)
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
            own = base.hydra.runtime.choices["mode"]
            asked = next((override.value() for override in values if override.key_or_group == "phases"), None)
            modes = {}
            for name in modes_of(asked, own):
                _is_choice("mode", name, known)
                other = base if name == own else hydra_compose(root, [*choices, f"mode={name}"])
                modes[name] = _plain(OmegaConf.to_container(other.mode))
            options, proposed = proposals(modes, given, known)
            if options:
                base = hydra_compose(root, overrides=[*choices, *options], return_hydra_config=True)
        made = base.hydra.runtime.choices
        OmegaConf.set_struct(base, False)
        base.pop("hydra")
        tune(base.loss)
        shape = _plain(OmegaConf.to_container(base))
        for override in values:
            key, value = override.key_or_group, override.value()
            if override.is_delete():
                raise UsageError(f"~{key} would leave a hole; set {key}=null instead")
            if not override.is_add():
                check_known(key, shape)
            check_value(key, value, lookup(shape, key))
            OmegaConf.update(base, key, value, force_add=override.is_add())
        for key, value in proposed.items():
            if holds(key, _plain(OmegaConf.to_container(base)), lookup(shape, key), given):
                check_known(key, shape)
                OmegaConf.update(base, key, value)
        config = _plain(OmegaConf.to_container(base))
        phases = [] if config["phases"] is None else config["phases"]
        if not isinstance(phases, list) or not all(isinstance(phase, dict) for phase in phases):
            raise UsageError(f"phases={phases}: expected a list of groups of keys, [{{epochs: 10}}]")
        trained = "+".join(modes_of(phases, own))
        for phase in phases:
            if isinstance(name := phase.get("mode"), str):
                _is_choice("mode", name, known)
                with initialize_config_dir(str(conf_folder()), version_base="1.3"):
                    mode = hydra_compose(root, overrides=[*choices, f"mode={name}"]).mode
                phase["mode"] = _plain(OmegaConf.to_container(mode))
                phase["mode"].pop("proposes", None)
        set_dials(config)
        resolved = _plain(OmegaConf.to_container(OmegaConf.create(config), resolve=True, throw_on_missing=True))
    except HydraException as error:
        raise UsageError(" ".join(str(error).split()).split(" See https:")[0]) from error
    except OmegaConfBaseException as error:
        raise UsageError(str(error).splitlines()[0]) from error
    set_task_weight(resolved)
    _follow_generations(resolved)
    check(resolved)
    chosen = {group: made[group] for group in ("model", "data", "task")} | {"mode": trained}
    names = {**chosen, "teacher": made.get("model@teacher.model"), "loss": "+".join(resolved["loss"]["heads"])}
    return {**resolved, "names": names}


def _spelled(override: str, known: Mapping[str, list[str]]) -> list[str]:
    """`teacher=resnet56` stands for one teacher of that model, `teacher=[resnet56,vgg13]` for two.

    `teacher.teacher=resnet110` is the teacher's own. A model that stands twice in a list has two seeds.
    `mode.peers=[resnet56,vgg13]` names the models of a mode's peers.
    """
    key, equals, value = override.partition("=")
    if not key or (not equals and not key.startswith("~")):
        raise UsageError(f"{override}: expected KEY=VALUE, such as model=resnet20")
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
        if option not in options and not (option is None and group == "experiment"):
            raise UsageError(f"{group}={option}: no such option{nearest(str(option), options)}")
    return True


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
