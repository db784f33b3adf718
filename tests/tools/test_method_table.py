"""The folders are the catalogue: a method is one file, one YAML that says every setting, and one file of tests."""

from __future__ import annotations

import inspect
import json
import re
from importlib import import_module
from pathlib import Path

import pytest
import yaml

from kdlab.config.compose import conf_folder, groups
from kdlab.config.schema import HeadConfig, ModeConfig
from kdlab.config.settings import Targeted
from kdlab.heads.head import Head
from kdlab.modes.mode import Mode
from kdlab.tools.method_table import PAPER, files, head_of, main, settings, table, updated
from support.composed import compose

TESTS = Path(__file__).parents[1]
HEADS = files()
MODES = sorted(
    file.stem
    for file in (Path(inspect.getfile(Mode)).parent).glob("*.py")
    if not file.stem.startswith("_") and file.stem != "mode"
)

each_head = pytest.mark.parametrize("name", HEADS)
each_mode = pytest.mark.parametrize("name", MODES)


def written(group: str, name: str) -> dict:
    return yaml.safe_load((conf_folder() / group / f"{name}.yaml").read_text())


def classes(module: object, kind: type) -> list[type]:
    found = [value for value in vars(module).values() if isinstance(value, type) and issubclass(value, kind)]
    return [each for each in found if each.__module__ == module.__name__]


def check_settings(made: type, written: dict, read_by_the_run: type[Targeted]) -> None:
    """Every argument of a class stands in its YAML, and a default of the class is what stands there or turns it off."""
    settings = {key: value for key, value in written.items() if key not in (*read_by_the_run.model_fields, "_target_")}
    arguments = {
        key: value
        for key, value in inspect.signature(made).parameters.items()
        if key != "cast" and value.kind not in (value.VAR_POSITIONAL, value.VAR_KEYWORD)
    }
    assert settings.keys() == arguments.keys()
    for key, argument in arguments.items():
        default = list(argument.default) if isinstance(argument.default, tuple) else argument.default
        assert default in (argument.empty, None, settings[key]), key


def test_every_loss_has_its_file_and_every_file_its_loss():
    assert set(HEADS) == set(groups()["loss"])
    assert len(HEADS) >= 35


@each_head
def test_a_file_holds_one_head_that_describes_itself(name):
    kind = HEADS[name]
    module = import_module(f"kdlab.heads.{kind}.{name}")
    (head,) = classes(module, Head)
    assert head is type(head_of(name))
    assert head.kind == kind
    assert head.compares
    assert head.link.startswith("https://")
    paper = PAPER.match(head.paper)
    assert paper
    said = " ".join(module.__doc__.split())
    assert said.startswith(f"{name}: ")
    assert f"{paper['title'].rstrip('?')}" in said
    assert paper["year"] in said
    assert paper["authors"].split(",")[0].split(" et al.")[0] in said


@each_head
def test_a_yaml_states_every_setting_of_its_head(name):
    conf = written("loss", name)
    own = conf["heads"][name]
    head = type(head_of(name))
    assert list(conf["heads"]) == [name]
    assert own["_target_"] == f"{head.__module__}.{head.__name__}"
    assert {"weight", "task_weight"} <= own.keys()
    check_settings(head, own, HeadConfig)
    assert (conf_folder() / "loss" / f"{name}.yaml").read_text().startswith("# ")


@each_head
def test_the_tuners_space_names_settings_of_the_head(name):
    space = written("loss", name)["space"]
    assert list(space) == [name]
    for key, dimension in space[name].items():
        published = settings(name).plain()[key]
        if "choices" in dimension:
            assert published in dimension["choices"]
        else:
            assert dimension["low"] <= published <= dimension["high"], key


@each_head
def test_a_dial_that_is_published_is_read(name):
    conf = written("loss", name)
    for dial in conf.get("published", {}).get(name, {}):
        assert f"...{dial}}}" in str(conf["heads"][name])


@each_head
def test_a_head_has_tests_of_its_own(name):
    file = TESTS / "heads" / HEADS[name] / f"test_{name}.py"
    assert f"from kdlab.heads.{HEADS[name]}.{name} import" in file.read_text()


def test_every_mode_has_its_file_and_every_file_its_mode():
    assert set(MODES) == set(groups()["mode"])


@each_mode
def test_a_mode_has_its_class_its_settings_and_its_tests(name):
    (mode,) = classes(import_module(f"kdlab.modes.{name}"), Mode)
    own = compose([f"mode={name}"])["mode"]
    assert own["_target_"] == f"{mode.__module__}.{mode.__name__}"
    check_settings(mode, own, ModeConfig)
    tests = [file for file in TESTS.rglob("test_*.py") if file != Path(__file__)]
    assert any(file.stem == f"test_{name}" or f"import {mode.__name__}\n" in file.read_text() for file in tests)


def test_the_table_has_a_row_for_each_method_and_columns_for_what_was_measured(tmp_path, capsys):
    costs, digits = tmp_path / "costs.json", tmp_path / "digits.json"
    costs.write_text(json.dumps({"kd": {"ms": 1.0, "mib": 0.0}, "crd": {"ms": 1.256, "mib": 97.6, "other": 3}}))
    digits.write_text(json.dumps({"dkd": {"ratio": 0.474}}))
    assert main([str(costs), str(digits)]) == 0
    head, rule, *rows = capsys.readouterr().out.splitlines()
    titles = "| method | kind | paper | year | compares | weight | also takes "
    assert head == f"{titles}| step time / `kd` | memory − `kd`, MiB | end / start on digits |"
    assert rule.count("---") == head.count("|") - 1 == 10
    found = {line.split(" | ")[0].strip("| `"): line for line in rows}
    assert found.keys() == HEADS.keys()
    assert found["crd"] == (
        "| `crd` | relation | Tian, Krishnan, Isola, [Contrastive Representation Distillation]"
        "(https://arxiv.org/abs/1910.10699), ICLR | 2020 | each sample's embedding against those of other samples "
        "| 0.8 | labels, sample indices | 1.26 | +98 |  |"
    )
    assert found["dkd"].endswith("| 1 | labels, a ramp over 20 epochs |  |  | 0.47 |")
    assert "| 0.9, labels 0.1 |" in found["kd"]
    assert "| 0 epochs" not in found["ft"]
    assert "30 epochs of its own first" in found["ft"]
    assert "| 1, labels 0 | parts that stay in the student |" in found["simkd"]
    assert [line.split(" | ")[1] for line in rows] == sorted(
        (line.split(" | ")[1] for line in rows), key=["response", "feature", "relation"].index
    )


def test_a_file_that_holds_no_measures_is_refused_in_one_line(tmp_path, capsys):
    file = tmp_path / "costs.json"
    file.write_text('{"nosuch": {"ms": 1}}')
    assert main([str(file)]) == 2
    assert capsys.readouterr().err == (
        f"kdlab: {file}: expected JSON of the form {{method: {{column: value}}}}: KeyError('nosuch')\n"
    )


@pytest.mark.parametrize("page", ["methods", "published"])
def test_a_page_has_its_tables_as_the_command_prints_them(page, monkeypatch):
    monkeypatch.chdir(TESTS.parent)
    text = Path(f"docs/{page}.md").read_text()
    assert updated(text) == text, f"python -m kdlab.tools.method_table --update docs/{page}.md"


def test_the_readme_names_every_method_and_mode():
    named = set(re.findall(r"`(\w+)`", (TESTS.parent / "README.md").read_text()))
    assert named >= {*HEADS, *MODES}


def test_update_replaces_what_stands_between_the_markers_and_nothing_else(tmp_path, capsys):
    page, start, end = tmp_path / "page.md", "<!-- catalogue:start -->", "<!-- catalogue:end -->"
    page.write_text(f"before\n{start}\nold\n{end}\nafter\n")
    assert main(["--update", str(page)]) == 0
    assert page.read_text() == f"before\n{start}\n{table()}\n{end}\nafter\n"
    assert capsys.readouterr().out == ""


def test_a_page_that_cannot_be_updated_is_refused_in_one_line(tmp_path, capsys):
    page = tmp_path / "page.md"
    assert main(["--update", str(page)]) == 2
    assert capsys.readouterr().err == f"kdlab: {page}: cannot be read: No such file or directory\n"
    page.write_text("no table")
    assert main(["--update", str(page)]) == 2
    assert capsys.readouterr().err == (
        f"kdlab: {page}: has no table to update; expected <!-- catalogue:start --> and <!-- catalogue:end -->\n"
    )
