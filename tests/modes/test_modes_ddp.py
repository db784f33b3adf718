"""Two processes train, in every mode, what one process trains: what a mode remembers is the same on both."""

import pytest
from safetensors.torch import load_file

from kdlab.run.loggers import read_metrics
from support.rank_runs import train

PLAIN = "import sys, torch\ntorch.set_num_threads(1)\nfrom kdlab.train import main\nsys.exit(main(sys.argv[1:]))\n"

# Where the network has no batch normalisation, nor the mode a part with it, the numbers must be the same.
EXACT = ["dlb", "ps_kd", "ema", "snapshot", "tf_kd", "dml", "kdcl", "cotrain"]


def pair(tmp_path, *overrides):
    script = tmp_path / "plain.py"
    script.write_text(PLAIN)
    found = []
    for name, more in (("one", ()), ("two", ("trainer=ddp", "trainer.devices=2"))):
        (tmp_path / name).mkdir()
        # Four batches of 64, and a last one of 40.
        found.append(train(tmp_path / name, tmp_path / "home", script, [*overrides, "data.subset=296", *more]))
    return found


@pytest.mark.parametrize("mode", [EXACT[0], *(pytest.param(mode, marks=pytest.mark.slow) for mode in EXACT[1:])])
def test_two_ranks_end_where_one_process_ends(mode, tmp_path):
    one, two = pair(tmp_path, f"mode={mode}")
    ours, theirs = (load_file(run / "student.safetensors") for run in (one, two))
    for name, value in ours.items():
        assert (value - theirs[name]).abs().max() < 1e-9, name
    for row, same in zip(*(read_metrics(run / "metrics.csv") for run in (one, two)), strict=True):
        assert row == pytest.approx(same, rel=1e-6, abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["byot", "one"])
def test_a_mode_with_batch_normalisation_trains_on_two_ranks(mode, tmp_path):
    _, two = pair(tmp_path, f"mode={mode}", "model=resnet8", "model.width=0.125", "loss=kd")
    assert (two / "result.json").is_file()
