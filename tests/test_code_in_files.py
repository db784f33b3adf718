"""No file that is read as data runs code: packages are allowed on the command line alone."""

import contextlib
import importlib
import io
import json
import shutil
import sys
from pathlib import Path

import pytest
import yaml

from support.tiny_runs import TINY, files, machine, train

PAYLOAD = """
from pathlib import Path
Path({marker!r}).touch()
from torch import nn
class Net(nn.Module):
    def __init__(self, *args, **kwargs):
        super().__init__()
"""
EVIL = {"_target_": "hostile.Net"}


@pytest.fixture(autouse=True)
def hostile(tmp_path, monkeypatch):
    """A package that leaves a file when it is imported, the way to which is open; and the file."""
    marker = tmp_path / "pwned"
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages" / "hostile.py").write_text(PAYLOAD.format(marker=str(marker)))
    monkeypatch.syspath_prepend(tmp_path / "packages")
    importlib.invalidate_caches()
    with machine(tmp_path / "home"):
        yield marker
    sys.modules.pop("hostile", None)


def write(folder: Path, **configs: object) -> Path:
    for name, content in configs.items():
        file = folder / f"{name.replace('__', '/')}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False))
    return folder


def told(command, *arguments: str) -> tuple[int, str]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = command(list(arguments))
    return code, err.getvalue()


GLOBAL = "# @package _global_\n"
EXPERIMENTS = {
    "a key": {"experiment__x": GLOBAL + yaml.safe_dump({"allow": ["hostile"], "model": EVIL})},
    "the defaults list": {
        "experiment__x": GLOBAL + "defaults: [/experiment/deeper/y]\n",
        "experiment__deeper__y": GLOBAL + yaml.safe_dump({"allow": ["hostile"], "model": EVIL}),
    },
    "a group placed elsewhere": {
        "experiment__x": GLOBAL + "defaults: [{/hidden@_global_: z}]\n",
        "hidden__z": {"allow": ["hostile"], "model": EVIL},
    },
    "a reference": {
        "experiment__x": GLOBAL + yaml.safe_dump({"allow": "${.loss.words}", "loss": {"words": ["hostile"]}})
    },
    "an expression": {
        "experiment__x": GLOBAL + yaml.safe_dump({"allow": "${oc.decode:'[hostile]'}", "model": EVIL})
    },
    "a phase": {
        "experiment__x": GLOBAL
        + yaml.safe_dump({"allow": ["hostile"], "phases": [{"epochs": 1, "optimizer": EVIL}]})
    },
    "what a mode proposes": {
        "experiment__x": GLOBAL + "defaults: [{override /mode: sly}]\n",
        "mode__sly": {
            "_target_": "kdlab.modes.offline.Offline", "combine": "average", "weights": None,
            "proposes": {"allow": ["hostile"]},
        },
    },
}  # fmt: skip


@pytest.mark.parametrize("configs", EXPERIMENTS.values(), ids=EXPERIMENTS)
def test_a_config_file_cannot_allow_its_own_code(configs, hostile, tmp_path):
    folder = write(tmp_path / "conf", **configs)
    found = train(*TINY, "experiment=x", "--config-dir", str(folder), runs=tmp_path / "runs")
    assert found.code == 2
    (line,) = found.err.splitlines()
    assert line.startswith("kdlab: ")
    assert "allow" in line
    assert "command line" in line
    assert not hostile.exists()
    assert "hostile" not in sys.modules


def test_the_same_package_works_where_the_command_line_allows_it(hostile, tmp_path):
    folder = write(tmp_path / "conf", experiment__x=EXPERIMENTS["a key"]["experiment__x"])
    train(*TINY, "experiment=x", "--config-dir", str(folder), "allow=[hostile]", runs=tmp_path / "runs")
    assert hostile.exists()


@pytest.mark.parametrize(
    "content",
    [
        GLOBAL + "model: !!python/object/apply:pathlib.Path.touch [pwned]\n",
        GLOBAL + "name: !!python/object/apply:os.system ['touch pwned']\n",
        GLOBAL + "hydra: {callbacks: {x: {_target_: hostile.Net}}}\n",
        GLOBAL + "hydra: {searchpath: [pkg://hostile]}\n",
        GLOBAL + "hydra: {job_logging: {root: {handlers: [x]}, handlers: {x: {(): hostile.Net}}}}\n",
        GLOBAL + "model: {_target_: hostile.Net}\n",
    ],
)
def test_a_config_file_runs_nothing_by_its_tags_or_its_settings_of_hydra(content, hostile, tmp_path):
    folder = write(tmp_path / "conf", experiment__x=content)
    assert told(command("train"), *TINY, "experiment=x", "--config-dir", str(folder), "--cfg", "job")[0] in (0, 2)
    found = train(*TINY, "experiment=x", "--config-dir", str(folder), "trainer.max_epochs=0",
                  "teacher.trainer.max_epochs=0", runs=tmp_path / "runs")  # fmt: skip
    assert found.code in (0, 2)
    assert "Traceback" not in found.err
    assert not hostile.exists()
    assert not list(tmp_path.rglob("pwned"))


def command(name: str):
    return importlib.import_module(f"kdlab.{name}").main


STUDIES = {
    "an override": {"overrides": ["allow=[hostile]", "model._target_=hostile.Net"]},
    "an added override": {"overrides": ["++allow=[hostile]", "model._target_=hostile.Net"]},
    "the space": {"space": {"allow": {"choices": ["[hostile]", "[]"]}}},
    "a first point": {"first": [{"allow": "[hostile]"}], "space": {"optimizer.lr": {"low": 0.1, "high": 0.2}}},
}


@pytest.mark.parametrize("study", STUDIES.values(), ids=STUDIES)
def test_a_study_cannot_allow_its_own_code(study, hostile, tmp_path):
    space = {"space": {"loss.temperature": {"low": 1.0, "high": 8.0}}}
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump({**space, "budget": {"trials": 1}, "final": {"seeds": 0}, **study}))
    before = files(tmp_path)
    code, line = told(command("sweep"), str(file), *TINY, f"runs={tmp_path / 'runs'}")
    assert code == 2
    assert len(line.splitlines()) == 1
    assert "allow" in line
    assert not hostile.exists()
    assert files(tmp_path) == before


def test_a_study_that_needs_a_package_says_what_to_type(tmp_path):
    from kdlab.core.errors import UsageError
    from kdlab.study.spec_file import read_plan

    file = tmp_path / "study.yaml"
    space = {"loss.temperature": {"low": 1.0, "high": 8.0}}
    file.write_text(yaml.safe_dump({"overrides": ["allow=[support]"], "space": space}))
    with pytest.raises(UsageError) as refused:
        read_plan(file)
    assert f"python -m kdlab.sweep {file} 'allow=[support]'" in str(refused.value)
    file.write_text(yaml.safe_dump({"space": space}))
    plan = read_plan(file, ["allow=[support]"])
    assert plan.compose(plan.arms[0].overrides).allow == ("support",)


def test_what_a_storage_holds_cannot_allow_code(tmp_path):
    from kdlab.core.errors import UsageError
    from kdlab.study.spec_file import read_plan

    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump({"space": {"loss.temperature": {"low": 1.0, "high": 8.0}}}))
    plan = read_plan(file)
    with pytest.raises(UsageError, match=r"allow=.*command line"):
        plan.compose(["allow=[hostile]", "seed=3"])  # the overrides of a refit, or a parameter called allow


@pytest.fixture(scope="module")
def stopped(tmp_path_factory) -> Path:
    """A run that has begun and not ended."""
    place = tmp_path_factory.mktemp("stopped")
    with machine(place / "home"):
        found = train("model=resnet8", "model.width=0.25", "mode=supervised", "trainer.max_epochs=1", "logger=csv",
                      "data.subset=64", "trainer.batch_size=32", runs=place / "runs")  # fmt: skip
        assert found.folder is not None, found.err
        (found.folder / "result.json").unlink()
    return found.folder


def test_a_stopped_run_cannot_allow_its_own_code(stopped, hostile, tmp_path):
    shutil.copytree(stopped, tmp_path / "run")
    file = tmp_path / "run" / "config.yaml"
    content = yaml.safe_load(file.read_text())
    file.write_text(yaml.safe_dump({**content, "allow": ["hostile"], "model": EVIL}))
    before = files(tmp_path)
    code, line = told(command("train"), f"resume={tmp_path / 'run'}")
    assert code == 2
    assert line == (
        f"kdlab: resume={tmp_path / 'run'} uses classes of your own packages; to run them type "
        f"python -m kdlab.train resume={tmp_path / 'run'} 'allow=[hostile]'\n"
    )
    assert not hostile.exists()
    assert files(tmp_path) == before


def test_a_stopped_run_takes_the_packages_of_the_command_line_and_no_other_key(stopped, tmp_path):
    shutil.copytree(stopped, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints"))
    code, line = told(command("train"), f"resume={tmp_path / 'run'}", "seed=3", "allow=[support]")
    assert (code, "leave out seed=3\n" in line) == (2, True)
    file = tmp_path / "run" / "config.yaml"
    content = yaml.safe_load(file.read_text())
    file.write_text(yaml.safe_dump({**content, "allow": ["support"]}))
    assert told(command("train"), f"resume={tmp_path / 'run'}", "allow=[support]")[0] == 0
    assert json.loads((tmp_path / "run" / "result.json").read_text())["status"] == "completed"
