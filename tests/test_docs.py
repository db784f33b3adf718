"""The guides are run: every block of code in them is a file that is written, or a command that succeeds.

On every page, links lead to files and headings that exist, and commands name modules, options and keys that exist.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from kdlab.config.compose import compose
from kdlab.run.builder import assemble

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
DOCS = sorted((ROOT / "docs").glob("adding_*.md"))
GUIDES = ["adding_a_head"]
BLOCK = re.compile(r"^```(\w+) ?(\S*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
"""A fenced block: its language, the file that it is, and its text. One without a file is commands."""
LINK = re.compile(r"\]\(([^)#\s]*)#?([^)\s]*)\)")
"""A link: the page, empty for this one, and the heading in it."""
TRAIN = re.compile(r"^(?:srun .*)?python -m kdlab\.train (?!-)(.*)$", re.MULTILINE)
"""A command in a block of its own, up to the end of the line."""
OVERRIDES = re.compile(r"`((?:'?[a-z][\w.]*=[^`\s]+ ?)+)`")
"""The same within a sentence: `mode=dml loss=kd`."""

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


def anchors(page: Path) -> set[str]:
    """Its headings, as GitHub makes links of them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@each_page
def test_every_link_leads_to_a_file_and_a_heading_that_exist(page: Path) -> None:
    links = [(target, heading) for target, heading in LINK.findall(page.read_text()) if "://" not in target]
    for target, heading in links:
        found = page.parent / target if target else page
        assert found.exists(), target
        assert not heading or heading in anchors(found), (target, heading)


@each_page
def test_every_path_that_a_page_names_exists(page: Path) -> None:
    for path in re.findall(r"`((?:src|conf|tests|sweeps|docs)/[a-z_0-9./]+)`", page.read_text()):
        assert (ROOT / path).exists(), path


@each_page
def test_every_command_names_a_module_that_exists(page: Path) -> None:
    for module in re.findall(r"python -m (kdlab(?:\.\w+)*)", page.read_text()):
        assert find_spec(module), module


def given(page: Path) -> list[str]:
    """The overrides of every run that a page shows, except where they name files of the user or belong to a study."""
    text = page.read_text()
    shown = [*TRAIN.findall(text), *OVERRIDES.findall(text)]
    return [each for each in shown if not re.search(r"resume=|FILE|NAME|KEY|--config-dir|workers=|pruner=", each)]


@pytest.mark.parametrize(
    ("page", "overrides"), [(page, each) for page in PAGES if page not in DOCS for each in given(page)],
    ids=lambda value: value.stem if isinstance(value, Path) else value[:60],
)  # fmt: skip
def test_a_run_that_a_page_shows_can_be_composed(page: Path, overrides: str) -> None:
    compose(shlex.split(overrides, comments=True))


def blocks(guide: Path) -> list[tuple[str, str, str]]:
    return BLOCK.findall(guide.read_text())


def commands(guide: Path) -> list[str]:
    typed = "".join(text for language, _, text in blocks(guide) if language == "bash")
    return typed.replace("\\\n", " ").splitlines()


def write(guide: Path, folder: Path) -> None:
    for language, file, text in blocks(guide):
        if language != "bash":
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_text(text)


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    here = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    own = {"PATH": here, "KDLAB_HOME": str(folder / "home"), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, shell=True, cwd=folder, env={**os.environ, **own}, capture_output=True, text=True, check=False
    )


def test_there_is_a_guide_for_each_thing_that_a_user_adds() -> None:
    assert [guide.stem for guide in DOCS] == GUIDES
    assert all(commands(guide) for guide in DOCS)


@pytest.mark.parametrize("guide", DOCS, ids=lambda guide: guide.stem)
def test_every_block_is_a_file_or_commands(guide: Path) -> None:
    assert guide.read_text().count("```") == 2 * len(blocks(guide))
    for language, file, text in blocks(guide):
        assert (language == "bash") == (not file)
        assert text.strip()


@pytest.mark.parametrize("guide", DOCS, ids=lambda guide: guide.stem)
def test_a_guides_own_tests_pass(guide: Path, tmp_path: Path) -> None:
    write(guide, tmp_path)
    tests = [command for command in commands(guide) if command.startswith("python -m pytest")]
    assert tests
    for command in tests:
        done = run(command, tmp_path)
        assert done.returncode == 0, done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("guide", "command"),
    [(guide, command) for guide in DOCS for command in commands(guide)],
    ids=lambda value: value.stem if isinstance(value, Path) else value[:60],
)
def test_a_guides_commands_succeed(guide: Path, command: str, tmp_path: Path) -> None:
    write(guide, tmp_path)
    done = run(command, tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_head_of_the_users_own_is_put_together_like_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (guide,) = (guide for guide in DOCS if guide.stem == "adding_a_head")
    write(guide, tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    config = compose(["loss=[kd,pefd]", "allow=[mine]", "model=resnet8", "teacher=resnet8"], [tmp_path / "conf"])
    parts = assemble(config)
    parts.mode.close()
    assert parts.objective.names == ("task", "kd", "pefd")
    assert {name.split(".")[2] for name, _ in parts.objective.heads.named_parameters()} == {"projectors"}
    assert config.plain()["loss"]["heads"]["pefd"] == {
        "_target_": "mine.pefd.PEFD",
        "weight": 25.0,
        "task_weight": 1.0,
        "count": 3,
        "first": None,
        "ramp": None,
        "ramp_shape": "linear",
    }
