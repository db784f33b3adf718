"""A file is whole or as it was, whatever interrupts its writing."""

import os
import signal
import subprocess
import sys

import pytest

from kdlab.core.files import remove_unfinished, replacing, write_text

KILLED = """
import os, signal, sys
from pathlib import Path
from kdlab.core.files import replacing
with replacing(Path(sys.argv[1])) as aside:
    aside.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_file_is_replaced_at_once_and_nothing_else_is_left(tmp_path):
    file = tmp_path / "result.json"
    write_text(file, "old")
    with replacing(file) as aside:
        aside.write_text("new")
        assert file.read_text() == "old"
        assert aside.parent == file.parent  # on the same file system, or it would be copied over the old one
    assert file.read_text() == "new"
    assert list(tmp_path.iterdir()) == [file]


def test_a_file_stays_as_it_was_where_writing_fails(tmp_path):
    file = tmp_path / "result.json"
    write_text(file, "old")

    def fails():
        with replacing(file) as aside:
            aside.write_text("half")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        fails()
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_file_stays_as_it_was_where_its_writer_is_killed(tmp_path):
    file = tmp_path / "result.json"
    write_text(file, "old")
    died = subprocess.run([sys.executable, "-c", KILLED, str(file)], check=False)
    assert died.returncode == -signal.SIGKILL
    assert file.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 2
    remove_unfinished(tmp_path)
    assert list(tmp_path.iterdir()) == [file]


def test_a_file_and_its_name_are_on_the_disk_before_and_after_it_takes_its_place(tmp_path, monkeypatch):
    file, steps = tmp_path / "result.json", []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (steps.append(os.path.isdir(f"/proc/self/fd/{fd}")), sync(fd)))
    monkeypatch.setattr("pathlib.os.replace", lambda *paths: (steps.append("replaced"), replace(*paths)))
    write_text(file, "new")
    assert steps == [False, "replaced", True]


def test_a_link_is_replaced_and_not_followed(tmp_path):
    (tmp_path / "other").write_text("other")
    (tmp_path / "link").symlink_to(tmp_path / "other")
    write_text(tmp_path / "link", "new")
    assert (tmp_path / "other").read_text() == "other"
    assert (tmp_path / "link").read_text() == "new"
