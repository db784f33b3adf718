"""Two processes train what one process trains: shards without overlap, one teacher, metrics of the whole set."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from kdlab.run.loggers import read_metrics
from support.rank_runs import train

WATCHED = """
import json, os, sys
import torch
torch.set_num_threads(1)
from kdlab.training.distiller import Distiller
step = Distiller.training_step
def training_step(self, batch, batch_idx):
    from torch.nn.parallel import DistributedDataParallel
    wrapped = self.trainer.strategy.model
    with open(f"seen-{self.trainer.world_size}-{self.global_rank}-{'kd' if self.mode.teachers else 'alone'}", "a") as f:
        f.write(json.dumps({"epoch": self.current_epoch, "index": batch["index"].tolist(),
            "wrapped": isinstance(wrapped, DistributedDataParallel),
            "teachers": [type(t.network).__name__ for t in self.mode.teachers],
            "teacher_in_tree": any(t.network is m for t in self.mode.teachers for m in wrapped.modules()),
            "teacher_training": any(t.network.training for t in self.mode.teachers)}) + "\\n")
    return step(self, batch, batch_idx)
Distiller.training_step = training_step
from kdlab.train import main
sys.exit(main(sys.argv[1:]))
"""


def seen(folder: Path, world: int, rank: int) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / f"seen-{world}-{rank}-kd").read_text().splitlines()]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    base = tmp_path_factory.mktemp("ddp")
    script = base / "watched.py"
    script.write_text(WATCHED)
    found = {}
    for name, overrides in {
        "one": [],
        "two": ["trainer=ddp", "trainer.devices=2"],
        "parts": ["trainer.accumulate=2"],
    }.items():
        (base / name).mkdir()
        found[name] = train(base / name, base / "home", script, overrides)
    return base, found


def test_shards_do_not_overlap_and_make_up_the_global_batch(runs):
    base, _ = runs
    alone, first, second = seen(base / "one", 1, 0), seen(base / "two", 2, 0), seen(base / "two", 2, 1)
    assert len(alone) == len(first) == len(second) == 32
    for whole, one, other in zip(alone, first, second, strict=True):
        assert whole["index"] == one["index"] + other["index"]
        assert len(one["index"]) == len(other["index"])
    assert [len(row["index"]) for row in first] == ([32] * 15 + [20]) * 2  # 1000 = 15 · 64 + 40


def test_the_teacher_is_not_wrapped_not_in_the_tree_and_never_in_training_mode(runs):
    base, _ = runs
    for row in (*seen(base / "two", 2, 0), *seen(base / "two", 2, 1)):
        assert row["wrapped"]
        assert row["teachers"] == ["Plainest"]
        assert not row["teacher_in_tree"]
        assert not row["teacher_training"]


@pytest.mark.parametrize("other", ["two", "parts"])
def test_two_ranks_and_two_parts_end_where_one_process_ends(runs, other):
    _, found = runs
    ours, theirs = (load_file(found[name] / "student.safetensors") for name in ("one", other))
    for name, value in ours.items():
        assert (value - theirs[name]).abs().max() < 1e-9, name
    one, two = (read_metrics(found[name] / "metrics.csv") for name in ("one", other))
    assert len(one) == len(two) > 6
    for row, same in zip(one, two, strict=True):
        assert row == pytest.approx(same, rel=1e-6, abs=1e-6)


def test_two_ranks_write_one_run_and_one_result(runs):
    _, found = runs
    result = json.loads((found["two"] / "result.json").read_text())
    assert result["status"] == "completed"
    last = result["student"]["validation"]["last"]
    assert last * 400 == pytest.approx(round(last * 400))
    alone = json.loads((found["one"] / "result.json").read_text())["student"]["test"]
    for epoch in ("last", "best"):
        assert result["student"]["test"][epoch] == pytest.approx(alone[epoch], rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        ["loss=at", "loss.task_weight=0", "trainer=ddp"],
        ["loss=[kd,fitnet]", "loss.heads.fitnet.stage=-1", "loss.heads.fitnet.weight=0"],
    ],
)
def test_ranks_agree_where_some_parameters_get_no_gradient(tmp_path, overrides):
    # Losses without parts whose statistics would be those of half a batch.
    script = tmp_path / "watched.py"
    script.write_text(WATCHED)
    weights = {}
    for devices in (1, 2):
        (tmp_path / str(devices)).mkdir()
        asked = [*overrides, f"trainer.devices={devices}", "trainer.max_epochs=1"]
        weights[devices] = load_file(
            train(tmp_path / str(devices), tmp_path / "home", script, asked) / "student.safetensors"
        )
    assert all((value - weights[2][name]).abs().max() < 1e-9 for name, value in weights[1].items())
