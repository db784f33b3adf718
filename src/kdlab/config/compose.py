"""Composes a run's config from `conf/`, and refuses a wrong one in one line. Only this and `overrides.py` use Hydra.

The YAML files are the schema: a key must exist there, and its value keeps the type it has there; ranges are
in `ranges.py`. Nothing here imports torch, so that a typo is reported at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from kdlab.config import data_defaults
from kdlab.config.loss_settings import open_dials, set_dials, set_task_weight, tune
from kdlab.config.mode_defaults import holds, modes_of, proposals
from kdlab.config.overlay import set_by
from kdlab.config.overrides import Mark, experiments_of, group_of, is_choice, read, settled
from kdlab.config.ranges import check, check_known, check_value, lookup
from kdlab.config.schema import RunConfig
from kdlab.config.settings import parse
from kdlab.config.yaml_file import read_yaml
from kdlab.core.errors import UsageError

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override
    from omegaconf import DictConfig
    from omegaconf.errors import InterpolationKeyError

Plain = dict[str, Any]


def conf_folder() -> Path:
    """The folder of the config files: next to `src/` in a checkout, inside the package in a wheel."""
    checkout = Path(__file__).parents[3] / "conf"
    return checkout if (checkout / "train.yaml").is_file() else Path(__file__).parents[1] / "conf"


def groups(folders: Sequence[Path] = ()) -> dict[str, list[str]]:
    """Every group of the config with its options, from the folders of YAML files; nested options are `a/b`."""
    found: dict[str, set[str]] = {}
    for folder in (conf_folder(), *folders):
        for file in folder.rglob("*.yaml"):
            parts = file.relative_to(folder).with_suffix("").parts
            if len(parts) > 1:
                found.setdefault(parts[0], set()).add("/".join(parts[1:]))
    return {group: sorted(options) for group, options in sorted(found.items())}


def compose(
    overrides: Sequence[str] = (),
    folders: Sequence[Path] = (),
    root: str = "train",
    allow: Sequence[str] | None = None,
) -> RunConfig:
    """The config of a run: composed, checked, its dials set.

    Args:
        overrides: as on the command line, `model=mobilenet`, `loss.temperature=2`, `teacher=resnet56`.
        folders: further folders of config files, whose options join kdlab's own.
        root: the root file.
        allow: the packages that the command line allows, where the overrides come from elsewhere.

    Raises:
        UsageError: naming the key, the value and what would be right.
    """
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import InterpolationKeyError, OmegaConfBaseException

    OmegaConf.register_new_resolver("complement", lambda value: round(1 - value, 12), replace=True)
    OmegaConf.register_new_resolver("eighth", lambda value: value // 8, replace=True)
    for folder in folders:
        _refuse_folder(folder)
    known = groups(folders)
    names: Plain = {}
    try:
        given = read(overrides, known)
        config, names = _composed(given, folders, known, root)
        set_dials(config)
        resolved = _plain(OmegaConf.create(config), resolve=True)
    except HydraException as error:
        raise UsageError(" ".join(str(error).split()).split(" See https:")[0]) from error
    except InterpolationKeyError as error:
        raise UsageError(_unresolved(error, names, (*folders, conf_folder()))) from error
    except OmegaConfBaseException as error:
        raise UsageError(str(error).splitlines()[0]) from error
    typed: Any = next((o.value() for _, o in reversed(given) if o.key_or_group == "allow"), [])
    _refuse_code(resolved["allow"], typed if allow is None else [name for name in typed if name in allow])
    set_task_weight(resolved)
    _follow_generations(resolved)
    check(resolved)
    resolved.pop("resume")
    return parse(RunConfig, {**resolved, "names": {**names, "loss": "+".join(resolved["loss"]["heads"])}})


def _composed(
    given: Sequence[tuple[Mark, Override]], folders: Sequence[Path], known: Mapping[str, list[str]], root: str
) -> tuple[Plain, Plain]:
    """The config with what the user chose and set, its references not resolved, and the names of the choices."""
    from omegaconf import OmegaConf

    def composed(options: Sequence[str]) -> DictConfig:
        return _hydra(root, options, folders)

    chosen = [(mark, str(o.input_line)) for mark, o in given if is_choice(o.key_or_group, o.value(), known)]
    values = [o for _, o in given if not is_choice(o.key_or_group, o.value(), known)]
    choices = settled(chosen, lambda some: _plain(composed(some)))
    base = composed(choices)
    own = base.hydra.runtime.choices["mode"]
    keys = [*map(group_of, choices), *(o.key_or_group for o in values)]
    keys += set_by(experiments_of(choices), (conf_folder(), *folders))
    written = _plain(base.phases) if base.phases else None
    asked = next((o.value() for o in values if o.key_or_group == "phases"), written)
    suits = _plain(base.data).get("proposes", {})
    teacher = _plain(base.teacher) if base.teacher else None
    suiting, suited = data_defaults.proposals(suits, teacher, keys, known)
    if suiting:
        choices = [*choices, *suiting]
        base = composed(choices)
    modes = {}
    for name in modes_of(asked, own):
        is_choice("mode", name, known)
        modes[name] = _plain(base.mode if name == own else composed([*choices, f"mode={name}"]).mode)
    options, proposed = proposals(modes, keys, known)
    if options:
        base = composed([*choices, *options])
    made = base.hydra.runtime.choices
    OmegaConf.set_struct(base, False)
    base.pop("hydra")
    tune(base.loss)
    open_dials(base)
    shape = _plain(base)
    for override in values:
        _set(base, override, shape)
    # A mode's settings come first: a dial that the data propose may then have no reader.
    for key, value in {**proposed, **{key: value for key, value in suited.items() if key not in proposed}}.items():
        if holds(key, _plain(base), lookup(shape, key), keys):
            check_known(key, shape)
            OmegaConf.update(base, key, value)
    config = _plain(base)
    config["data"].pop("proposes", None)
    phases = [] if config["phases"] is None else config["phases"]
    if not isinstance(phases, list) or not all(isinstance(phase, dict) for phase in phases):
        raise UsageError(f"phases={phases}: expected a list of groups of keys, [{{epochs: 10}}]")
    names = {group: made[group] for group in ("model", "data", "task")}
    names |= {"mode": "+".join(modes_of(phases, own)), "teacher": made.get("model@teacher.model")}
    several = {f"phases.{place}": phase for place, phase in enumerate(phases)}
    several |= {f"loss.heads.{name}.first": head["first"] for name, head in config["loss"]["heads"].items()
                if isinstance(head.get("first"), dict)}  # fmt: skip
    for where, phase in several.items():
        for group in ("mode", "optimizer", "scheduler"):
            if not isinstance(option := phase.get(group), dict | None):
                is_choice(group, option, known, where=f"{where}.{group}")
                phase[group] = _plain(composed([*choices, f"{group}={option}"])[group])
                phase[group].pop("proposes", None)
    return config, names


def _unresolved(error: InterpolationKeyError, names: Plain, folders: Sequence[Path]) -> str:
    """What to type where a key reads one that is not there: a network for text, and data that are pictures."""
    line, reads = str(error).splitlines()[0], str(error.full_key)
    missing = line.split("'")[1]
    group, _, key = missing.partition(".")
    if group != "data" or not names:
        return f"{reads}: {line}"
    where = reads.rpartition(".")[0]
    option = {"model": f"model={names['model']}", "teacher.model": f"teacher={names['teacher']}"}.get(where, where)
    files = {file.stem: file for folder in folders for file in folder.glob("data/*.yaml")}
    fitting = [f"data={name}" for name, file in sorted(files.items()) if key in (read_yaml(file) or {})]
    others = " or ".join([*fitting, "another model"])
    return f"{option} needs {missing}, which data={names['data']} does not have; type {others}"


def _hydra(root: str, options: Sequence[str], folders: Sequence[Path]) -> DictConfig:
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    search = [f"hydra.searchpath=[{','.join(str(folder.resolve()) for folder in folders)}]"] if folders else []
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        return compose(root, overrides=[*options, *search], return_hydra_config=True)


def _set(base: DictConfig, override: Override, shape: Plain) -> None:
    from omegaconf import OmegaConf

    key, value = override.key_or_group, override.value()
    if not override.is_add():
        check_known(key, shape)
    check_value(key, value, lookup(shape, key))
    whole = isinstance(value, Mapping) and "_target_" in value  # it names its class, so no key of another one stays
    OmegaConf.update(base, key, value, merge=not whole, force_add=override.is_add())


def _refuse_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise UsageError(f"--config-dir {folder.resolve()}: there is no such folder")
    for file in folder.rglob("*.yaml"):
        if (conf_folder() / (own := file.relative_to(folder))).is_file():
            raise UsageError(f"--config-dir {folder}: kdlab already has a {own}; give yours another name")
        if (conf_folder() / own.parts[0]).is_dir():  # an option: Hydra has no limits when it reads one
            read_yaml(file)


def _refuse_code(packages: object, typed: Sequence[str]) -> None:
    """Refuses packages that no one typed: a file of settings from elsewhere would decide whose code runs here."""
    if packages != typed:
        named = ",".join(map(str, packages)) if isinstance(packages, list) else packages
        raise UsageError(
            f"allow=[{named}] is set by a file, but packages whose code may run are named on the command line alone; "
            f"to run them type 'allow=[{named}]'"
        )


def _follow_generations(config: Plain) -> None:
    """`generations=3`: three students in a row, each taught by the one before, the first trained alone.

    Furlanello et al. Born-Again Neural Networks. ICML 2018. The teachers are students themselves, each with its own
    seed, and otherwise the settings of this run.
    """
    generations = config.pop("generations")
    if generations is None:
        return
    check({"generations": generations})  # before they are written out
    if "members" in config["teacher"]:
        raise UsageError(f"generations={generations}: each is taught by the one before; choose a single teacher")
    own = {key: config[key] for key in ("model", "optimizer", "scheduler")}
    trainer = {key: config["trainer"][key] for key in config["teacher"]["trainer"]}
    teacher = {**config["teacher"], **own, "trainer": trainer, "checkpoint": None}
    taught = {key: config[key] for key in ("mode", "loss", "phases")}
    chain = None
    for generation in range(generations):
        links = {**taught, "teacher": chain} if chain else {"mode": None, "loss": None, "teacher": None}
        chain = deepcopy({**teacher, **links, "seed": config["seed"] + 1 + generation})
    config["teacher"] = chain


def _plain(container: DictConfig, *, resolve: bool = False) -> Plain:
    from omegaconf import OmegaConf

    plain = OmegaConf.to_container(container, resolve=resolve, throw_on_missing=resolve)
    return cast("Plain", plain)
