"""What the machine refuses is one line that names the file and says what to do, and how to resume."""

import errno
import os
import shutil
from pathlib import Path

import pytest

from kdlab.core.errors import one_line
from kdlab.core.system_errors import explained, system_error
from support.tiny_runs import machine, train

QUICK = ("model=resnet8", "model.width=0.25", "mode=supervised", "trainer.max_epochs=1", "data.subset=64",
         "trainer.batch_size=32", "logger=csv", "trainer.progress=false")  # fmt: skip


@pytest.fixture(autouse=True)
def home(tmp_path):
    with machine(tmp_path / "home"):
        yield tmp_path / "home"


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/runs/a"),
         "/runs/a: No space left on device; free some space"),
        (PermissionError(errno.EACCES, "Permission denied", "/home/x.lock"), "/home/x.lock: Permission denied; make"),
        (OSError(errno.EMFILE, "Too many open files", "/dev/null"), "Too many open files; raise the limit, ulimit -n"),
        (FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/none']"), "set TMPDIR=DIR"),
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0"), "free some space"),
        (Exception("I/O error: No space left on device (os error 28)"), "No space left on device; free some space"),
    ],
)  # fmt: skip
def test_every_command_says_what_the_machine_refuses_in_one_line(raised, said, capsys):
    @one_line
    def command() -> int:
        raise raised

    assert command() == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("kdlab: ")
    assert said in line


def test_an_error_of_kdlabs_own_is_not_taken_for_one_of_the_machine():
    assert system_error(TypeError("no")) is None
    met = TypeError("while it was handled")
    met.__context__ = OSError(errno.ENOSPC, "full")
    assert system_error(met) is None
    met.__cause__ = met.__context__
    assert system_error(met) is met.__cause__


def test_a_store_that_cannot_be_used_is_one_line_that_says_how_to_resume(home, tmp_path):
    (home / "store").mkdir(parents=True)
    (home / "store" / "locks").write_text("a file of someone else")
    told = train(*QUICK, "mode=offline", "alone=false", "teacher=resnet8", "teacher.model.width=0.25",
                 "teacher.trainer.max_epochs=1", runs=tmp_path / "runs")  # fmt: skip
    assert told.code == 2
    line = told.err.splitlines()[-1]
    assert line == (
        f"kdlab: {home}/store/locks: File exists; make it writable, or choose another place with runs=DIR or the "
        f"environment variable KDLAB_HOME; then resume with python -m kdlab.train resume={told.folder}"
    )
    assert "Traceback" not in told.err


def test_a_disk_that_is_full_while_a_run_trains_loses_nothing_and_the_run_resumes(tmp_path, capsys):
    from kdlab.train import main

    whole = train(*QUICK, runs=tmp_path / "whole").folder
    started = train(*QUICK, runs=tmp_path / "runs").folder
    assert whole is not None
    assert started is not None
    for name in ("result.json", "metrics.csv", "student.safetensors"):
        (started / name).unlink()
    shutil.rmtree(started / "checkpoints")
    (started / "metrics.csv").symlink_to("/dev/full")
    assert main([f"resume={started}"]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line == (
        f"kdlab: No space left on device; free some space; then resume with python -m kdlab.train resume={started}"
    )
    (started / "metrics.csv").unlink()
    assert main([f"resume={started}"]) == 0
    assert (started / "student.safetensors").read_bytes() == (whole / "student.safetensors").read_bytes()


def test_a_place_for_runs_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "runs").write_text("")
    told = train(*QUICK, f"runs={tmp_path / 'runs'}", runs=tmp_path / "elsewhere")
    assert told.code == 2
    assert f"runs={tmp_path / 'runs'}: cannot create a folder there" in told.err


def test_the_file_is_named_however_its_name_was_given():
    for name in ("x", b"x", Path("x")):
        assert explained(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)).startswith("x: No space left")
