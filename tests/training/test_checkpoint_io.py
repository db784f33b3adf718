"""Whatever interrupts the writing of a checkpoint, one that is whole is left, and a damaged one is never loaded."""

import random
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from kdlab.core.errors import UsageError
from kdlab.run.resume import last_good
from kdlab.training.checkpoint_io import CheckpointFiles, DamagedError, read

SUPPORT = Path(__file__).parents[1]

# Each child writes checkpoint 3 over 2, which had replaced 1, and is killed one line later than the child before it.
KILLED = """
import os, shutil, sys
from pathlib import Path
from support.instants import killed_at
from kdlab.run.resume import last_good
from kdlab.training.checkpoint_io import CheckpointFiles
os.fsync = lambda descriptor: None  # slow, and of no use against a kill
folder, begun = Path(sys.argv[1], "run"), Path(sys.argv[1], "begun")
io = CheckpointFiles()
def written(steps):
    io.save_checkpoint({"kdlab": {"steps": steps}}, folder / "checkpoints" / "last.ckpt")
written(1), written(2)
folder.rename(begun)
killed, instant = True, 0
while killed:
    shutil.copytree(begun, folder)
    killed = killed_at(instant, lambda: written(3), ("checkpoint_io.py", "core/files.py"))
    found = last_good(folder)
    print(instant, found.steps, found.damaged)
    shutil.rmtree(folder)
    instant += 1
"""


def state(steps: int) -> dict[str, object]:
    generator = torch.Generator().manual_seed(steps)
    return {"kdlab": {"steps": steps}, "state_dict": {"a": torch.randn(40, 7, generator=generator)}}


@pytest.fixture
def last(tmp_path: Path) -> Path:
    return tmp_path / "checkpoints" / "last.ckpt"


def test_the_last_checkpoint_and_the_one_before_it_are_kept_and_torch_reads_them(last):
    files = CheckpointFiles({"seed": 0})
    for steps in (1, 2, 3):
        files.save_checkpoint(state(steps), last)
    assert sorted(file.name for file in last.parent.iterdir()) == ["last.ckpt", "previous.ckpt"]
    for file, steps in ((last, 3), (last.with_name("previous.ckpt"), 2)):
        found = torch.load(file, weights_only=True)
        assert found["kdlab"]["steps"] == steps
        assert found["state_dict"]["a"].equal(state(steps)["state_dict"]["a"])


def test_a_process_killed_at_any_instant_of_writing_leaves_a_whole_checkpoint(tmp_path):
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], capture_output=True, text=True, check=False,
                          env={"PYTHONPATH": ":".join([str(SUPPORT), *sys.path]), "OMP_NUM_THREADS": "1"})  # fmt: skip
    assert done.returncode == 0, done.stderr
    steps = [int(line.split()[1]) for line in done.stdout.splitlines()]
    assert len(steps) > 25
    assert steps == sorted(steps)  # the old one, up to an instant; from there the new one
    assert {steps[0], steps[-1]} == {2, 3}
    assert all(line.endswith("None") for line in done.stdout.splitlines())


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.9, 0.999])
def test_a_disk_that_fills_up_while_it_is_written_leaves_the_last_as_it_was(last, share):
    files = CheckpointFiles()
    files.save_checkpoint(state(1), last)
    whole = last.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(share * len(whole)), limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            files.save_checkpoint(state(2), last)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert last.read_bytes() == whole
    assert list(last.parent.iterdir()) == [last]


def test_no_flipped_bit_is_ever_loaded(last):
    CheckpointFiles().save_checkpoint(state(1), last)
    whole = last.read_bytes()
    places = random.Random(0).sample(range(len(whole)), 1000)
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        last.write_bytes(damaged)
        with pytest.raises(DamagedError):
            read(last)


@pytest.mark.parametrize("damage", [b"", b"\0" * 4000, b"hello world", None])
def test_where_the_last_is_damaged_the_one_before_it_is_taken_and_stays_while_the_next_is_written(last, damage):
    files = CheckpointFiles()
    files.save_checkpoint(state(1), last), files.save_checkpoint(state(2), last)
    last.write_bytes(last.read_bytes()[:-1] if damage is None else damage)
    found = last_good(last.parents[1])
    assert (found.file, found.steps, found.damaged) == (last.with_name("previous.ckpt"), 1, last)
    resumed = CheckpointFiles()
    assert resumed.load_checkpoint(found.file)["kdlab"]["steps"] == 1
    resumed.save_checkpoint(state(2), last)
    assert (read(last)["kdlab"]["steps"], read(found.file)["kdlab"]["steps"]) == (2, 1)
    resumed.save_checkpoint(state(3), last)
    assert (read(last)["kdlab"]["steps"], read(found.file)["kdlab"]["steps"]) == (3, 2)


def test_where_both_are_damaged_both_are_named_and_what_to_do(last):
    files = CheckpointFiles()
    files.save_checkpoint(state(1), last), files.save_checkpoint(state(2), last)
    shutil.copy(__file__, last)
    last.with_name("previous.ckpt").write_bytes(b"")
    with pytest.raises(UsageError) as refused:
        last_good(last.parents[1])
    previous = last.with_name("previous.ckpt")
    why = "is damaged, or was written by another version of kdlab"
    assert str(refused.value) == f"{last} {why}, and {previous} {why}; delete both to train from the start"


def test_before_the_first_checkpoint_there_is_none(tmp_path):
    assert last_good(tmp_path) is None


RECIPE = {
    "version": 3, "data": {"fingerprint": "f"}, "model": {"_target_": "a.Net", "width": 0.5}, "optimizer": {"lr": 0.05},
    "teachers": [{"checkpoint": "e"}],
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"optimizer": {"lr": 0.1}}, "optimizer.lr was 0.05 and is 0.1; undo that, or start a new run"),
        ({"model": {"_target_": "a.Net"}}, "model.width was 0.5 and is not set; undo that, or start a new run"),
        ({"teachers": []}, "teachers was [{'checkpoint': 'e'}] and is []; undo that, or start a new run"),
        ({"data": {"fingerprint": "g"}}, "was trained on other data than there are now; undo that, or start a new run"),
        ({"version": 4}, "was written by another version of kdlab; resume with that one"),
        ({"teachers": [{"checkpoint": "h"}]}, "was trained with other weights in the file of teachers.0.checkpoint; "
         "undo that, or start a new run"),
    ],
)  # fmt: skip
def test_a_checkpoint_of_another_recipe_is_refused_with_what_differs(last, change, said):
    CheckpointFiles(RECIPE).save_checkpoint(state(1), last)
    folder = last.parents[1]
    assert last_good(folder, {**RECIPE, "optimizer": {"lr": 0.05}}).steps == 1
    with pytest.raises(UsageError) as refused:
        last_good(folder, {**RECIPE, **change})
    first = f"{folder / 'config.yaml'} is not what {last} was trained by, one of the two was changed: "
    start = first if " and is " in said else f"{last} "
    assert str(refused.value) == f"{start}{said}"
