"""Any command line ends in 0, or in 2 with one line of printable characters; never in an exception.

100 examples of each kind, the same each time; `KDLAB_FUZZ=1000 pytest tests/test_fuzz.py` draws as many new ones.
"""

from __future__ import annotations

import contextlib
import io
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from hypothesis import HealthCheck, example, given, settings

import kdlab.data.dataset
import kdlab.run.execute
import kdlab.run.folder
from kdlab.core.errors import one_line
from kdlab.study.spec_file import make_plan, read_plan
from kdlab.train import main
from support.command_lines import arguments, studies, study_overrides
from support.tiny_runs import TINY, machine

EXAMPLES = int(os.environ.get("KDLAB_FUZZ", "0"))
LONGEST = 20.0
"""Seconds that a refusal may take here, on a machine that does other things too."""

pytestmark = pytest.mark.timeout(max(300, 5 * EXAMPLES))

settings.register_profile(
    "ci",
    max_examples=EXAMPLES or 100,
    derandomize=not EXAMPLES,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.function_scoped_fixture],
)
ci = settings.get_profile("ci")


@pytest.fixture(scope="module", autouse=True)
def _place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    place = tmp_path_factory.mktemp("fuzz")
    with machine(place / "home"), pytest.MonkeyPatch.context() as patch:
        read = kdlab.data.dataset.load

        def load(config: dict[str, Any], allow: tuple[str, ...] = ()) -> Any:
            """Only the digits are here; of other sets all that is asked of them before training."""
            digits = config["_target_"] == "kdlab.data.source.Digits"
            asked = SimpleNamespace(labels=torch.arange(1000) % 2, sizes={"train": 1000})
            asked.part = lambda select: asked
            return read(config, allow) if digits else asked

        patch.setattr(kdlab.data.dataset, "load", load)
        patch.setattr(kdlab.run.folder, "new_folder", lambda *_: place / "run")
        patch.setattr(kdlab.run.execute, "run", lambda *_, **__: None)
        yield place


def judge(command: Callable[[], int]) -> int:
    """The exit code of a command, once it is sure that it told the user what it should."""
    out, err = io.StringIO(), io.StringIO()
    started = time.monotonic()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = command()
    assert time.monotonic() - started < LONGEST
    lines = err.getvalue().split("\n")
    assert lines.pop() == ""
    assert all(line.startswith("kdlab: ") and line.isprintable() for line in lines)
    assert code in (0, 2)
    assert code == 0 or (len(lines) == 1 and not out.getvalue())
    return code


@ci
@given(arguments())
@example(["teacher.model.classes={epochs: [[0.5],[],[]]}"])
@example(["teacher.model.width=5.4e+16"])
@example(["++teacher.loss=epoch", "teacher.teacher.mode=kdcl"])
@example(["loss.heads.kd.task_weight=HEAD"])
def test_any_command_line_is_trained_or_refused_in_one_line(words: list[str]) -> None:
    judge(lambda: main([*TINY, *words]))


@ci
@given(studies(), study_overrides())
@example({"name": "a", "overrides": list(TINY), "space": {"seed": {"low": 0, "high": 1}}}, ["overrides=null", "seed=1"])
@example({"overrides": None}, ["model=resnet8"])
@example({"name": "a", "overrides": list(TINY), "compare": {"teacher": [{"x": 1}, [{}]]}}, [])
def test_any_study_is_planned_or_refused_in_one_line(study: dict[str, Any], words: list[str]) -> None:
    file = Path("study.yaml")
    file.write_text(yaml.safe_dump(study, allow_unicode=False))

    @one_line
    def planned() -> int:
        read_plan(file, words)
        return 0

    @one_line
    def made() -> int:
        make_plan(study)
        return 0

    judge(planned)
    if "name" in study:
        judge(made)


def test_what_is_right_is_not_refused() -> None:
    assert judge(lambda: main([*TINY, "optimizer.lr=0.1"])) == 0
    assert judge(lambda: main([*TINY, "optimizer.lr=-0.1"])) == 2
