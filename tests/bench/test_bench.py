"""The platform trains what a loop written by hand trains, bit for bit, and the benchmarks say what they measure."""

import re
from copy import deepcopy

import pytest
import torch
from torch.nn.functional import cross_entropy, kl_div
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR

from kdlab.api import distill
from kdlab.bench.__main__ import main
from kdlab.bench.interleave import PairedTimes, TimedLoop, alternate
from kdlab.bench.losses import peak_on_cpu
from kdlab.heads.response.kd import KD
from support.toys import Net

# Lightning's own use of what torch deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated")

QUICK = ["--pair", "small", "--blocks", "2", "--steps", "2", "--samples", "1000"]


@pytest.fixture(autouse=True)
def one_thread(tmp_path, monkeypatch):
    monkeypatch.setenv("KDLAB_HOME", str(tmp_path))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no")
def test_five_steps_of_the_distiller_are_five_steps_by_hand_bit_for_bit():
    generator = torch.Generator().manual_seed(0)
    batches = [(torch.randn(8, 1, 8, 8, generator=generator), torch.arange(8)) for _ in range(5)]
    torch.manual_seed(0)
    teacher, student = Net(), Net(width=0.5)
    by_hand, asked = deepcopy(student).double().train(), deepcopy(teacher).double().eval()

    def sgd(parameters):
        return SGD(parameters, lr=0.1, momentum=0.9, weight_decay=5e-4)

    trained, _ = distill(
        student, teacher, batches, loss=KD(temperature=4.0), alpha=0.9, epochs=1, optimizer=sgd,
        precision="64-true", accelerator="cpu",
    )  # fmt: skip

    optimizer = sgd(by_hand.parameters())
    scheduler = CosineAnnealingLR(optimizer, 5)
    for input, target in batches:
        with torch.no_grad():
            soft = (asked(input.double()) / 4).log_softmax(1)
        logits = by_hand(input.double())
        distance = kl_div((logits / 4).log_softmax(1), soft, reduction="batchmean", log_target=True)
        loss = (1 - 0.9) * cross_entropy(logits, target) + 0.9 * 4**2 * distance
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()

    ours, theirs = trained.state_dict(), by_hand.state_dict()
    assert ours["classifier.weight"].dtype == torch.float64
    assert {name: value.tolist() for name, value in ours.items()} == {n: v.tolist() for n, v in theirs.items()}


def test_two_loops_take_turns_block_by_block():
    turns = []

    def loop(name):
        def run(throttle):
            turns.extend((name, step) for step in throttle(range(100)))
            return name

        return run

    one, other = TimedLoop(loop("A")), TimedLoop(loop("B"))
    timed = alternate(one, other, blocks=2, steps=2)
    assert turns == [(name, step) for start in (0, 2, 4) for name in "AB" for step in (start, start + 1)]
    assert (len(timed.ours), len(timed.theirs)) == (2, 2)
    assert (one.finish(), other.finish()) == ("A", "B")


def test_what_breaks_in_a_loop_breaks_the_timing():
    def loop(throttle):
        for step in throttle(range(100)):
            assert step < 1, "the second step"

    timed = TimedLoop(loop)
    with pytest.raises(AssertionError, match="the second step"):
        timed.block(2)


def test_a_ratio_is_the_median_over_blocks_that_ran_one_after_the_other():
    timed = PairedTimes([2.0, 30.0, 8.0, 4.0, 5.0], [1.0, 10.0, 8.0, 2.0, 2.0], steps=3)
    assert timed.ratios == [2.0, 3.0, 1.0, 2.0, 2.5]
    assert timed.ratio == 2.0
    assert str(timed).split() == ["5.00", "2.00", "2.000", "2.000", "to", "2.500", "5", "×", "3"]


def test_the_step_is_timed_against_a_loop_that_ends_with_the_same_weights(capsys):
    assert main(["step", *QUICK]) == 0
    row = capsys.readouterr().out.splitlines()[-1]
    kdlab, by_hand, ratio = (float(number) for number in re.findall(r"\d+\.\d+", row)[:3])
    assert kdlab > 0
    assert by_hand > 0
    assert ratio > 0
    assert row.endswith("the same weights at the end")


def test_double_precision_and_channels_last_are_the_same_by_hand(capsys):
    assert main(["step", *QUICK, "--precision", "64-true", "--channels-last"]) == 0
    assert capsys.readouterr().out.endswith("the same weights at the end\n")


def test_a_loss_is_timed_and_weighed_against_kd_or_says_why_not(capsys):
    assert main(["losses", "fitnet", "cwd", *QUICK]) == 0
    *_, fitnet, cwd = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"fitnet +[\d.]+ +[\d.]+ +[\d.]+ +[\d.]+ to [\d.]+ +2 × 2 +[\d.]+ +[+-][\d.]+", fitnet)
    assert "they share one position" in cwd


def test_peak_memory_is_that_of_what_lies_there_at_once():
    def loop():
        kept = torch.zeros(2**18)
        gone = torch.zeros(2**20)
        del gone
        return kept + torch.zeros(2**18)

    assert peak_on_cpu(loop) == 5 * 2**20


@pytest.mark.parametrize(
    ("mode", "passes"),
    [("supervised", "1 student"), ("offline", "1 student, 1 teacher VGG"), ("dml", "1 peer1, 1 student")],
)
def test_a_mode_is_timed_against_as_many_forward_passes_as_it_makes(mode, passes, capsys):
    assert main(["modes", mode, *QUICK]) == 0
    row = capsys.readouterr().out.splitlines()[-1]
    assert row.startswith(mode)
    assert ", ".join(sorted(row.split("× 2  ")[1].split(", "))) == passes


def test_more_steps_than_an_epoch_has_are_refused(capsys):
    assert main(["step", "--pair", "small", "--blocks", "9", "--steps", "2", "--samples", "640"]) == 2
    assert "--blocks 9 --steps 2: 20 steps" in capsys.readouterr().err
