"""The guides are run: every block of code in them is a file that is written, or a command that succeeds."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from kdlab.run.builder import assemble
from support.composed import compose

DOCS = sorted((Path(__file__).parents[1] / "docs").glob("adding_*.md"))
GUIDES = ["adding_a_head"]
BLOCK = re.compile(r"^```(\w+) ?(\S*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
"""A fenced block: its language, the file that it is, and its text. One without a file is commands."""


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
    assert config["loss"]["heads"]["pefd"] == {
        "_target_": "mine.pefd.PEFD",
        "weight": 25.0,
        "task_weight": 1.0,
        "count": 3,
        "first": None,
        "ramp": None,
        "ramp_shape": "linear",
    }
