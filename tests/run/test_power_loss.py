"""A power loss undoes what was not flushed: so whatever is renamed into place is on the disk first, then its name."""

import os
from pathlib import Path

import pytest

from support.tiny_runs import NETWORKS, Told, files, machine, train

Step = tuple[str, Path, Path]
"""`sync` of a path (twice), or `rename` of one to another."""


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Told, Path, list[Step]]:
    """A whole run, its home, and the order in which it flushed and renamed."""
    place = tmp_path_factory.mktemp("power")
    steps: list[Step] = []
    sync, rename, replace = os.fsync, os.rename, os.replace

    def synced(descriptor):
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        steps.append(("sync", path, path))
        sync(descriptor)

    def renamed(how):
        def do(source, target, **options):
            steps.append(("rename", Path(source).absolute(), Path(target).absolute()))
            how(source, target, **options)

        return do

    with machine(place / "home"), pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", synced)
        patch.setattr(os, "rename", renamed(rename)), patch.setattr(os, "replace", renamed(replace))
        told = train(*NETWORKS, "trainer.max_epochs=2", "teacher.trainer.max_epochs=1", "alone=false", "logger=csv",
                     runs=place / "runs")  # fmt: skip
    assert told.code == 0, told.err
    return told, place / "home", steps


def unsafe(steps: list[Step], below: tuple[Path, ...]) -> list[Step]:
    """The renames below some folders that a power loss can undo, or leave with half a file."""
    found, flushed = [], set()
    for place, (what, source, target) in enumerate(steps):
        if what == "sync":
            flushed.add(source)
        elif any(target.is_relative_to(folder) for folder in below):
            inside = {step for step in flushed if step.is_relative_to(source)}
            named = any(step[0] == "sync" and step[1] == target.parent for step in steps[place + 1 :])
            names = {path.name for path in target.iterdir()} if target.is_dir() else set()
            whole = source in inside and names <= {path.name for path in inside}
            if not (whole and named):
                found.append((what, source, target))
            flushed |= {target}  # it may be renamed once more
    return found


def test_what_takes_its_place_was_flushed_before_and_its_folder_after(recorded):
    told, home, steps = recorded
    assert unsafe(steps, (told.folder, home)) == []


def test_every_file_that_a_run_leaves_took_its_place_so(recorded):
    told, home, steps = recorded
    taken = [target for what, _, target in steps if what == "rename"]
    left = [folder / name for folder in (told.folder, home) for name in files(folder)]
    assert len(left) > 15
    open_ended = {path for path in left if path.name == "metrics.csv" or path.suffix == ".lock"}
    assert {path for path in left if not any(path.is_relative_to(place) for place in taken)} == open_ended


def test_a_rename_without_flushing_would_be_found(recorded):
    told, _, steps = recorded
    assert len(unsafe([step for step in steps if step[0] == "rename"], (told.folder,))) > 10
