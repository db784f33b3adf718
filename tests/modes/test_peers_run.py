"""Whole runs of modes with several students: each is validated and listed, and the right one is kept."""

import json

import jsonschema
import lightning.pytorch as pl
import pytest
import torch
from torch.optim import SGD, Adam, AdamW
from torch.optim.lr_scheduler import ConstantLR

from kdlab.config.compose import compose
from kdlab.core.errors import UsageError
from kdlab.data.dataset import prepare
from kdlab.data.source import Digits
from kdlab.run.builder import assemble
from kdlab.run.derive import compose_run
from kdlab.run.execute import run
from kdlab.run.fit import fit
from kdlab.run.loggers import read_metrics
from kdlab.run.preflight import Preflight
from kdlab.run.result import SCHEMA
from kdlab.run.saved import load_student
from kdlab.training.distiller import Distiller
from kdlab.training.lr_schedule import make_scheduler

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated", "ignore:.*in eval mode at the start")

TINY = ["model=resnet8", "model.width=0.125", "trainer.max_epochs=2", "logger=csv", "alone=false", "data.subset=256",
        "trainer.progress=false", "trainer.accelerator=cpu"]  # fmt: skip


def outcome(tmp_path, monkeypatch, *overrides):
    monkeypatch.setenv("KDLAB_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("KDLAB_RUN", raising=False)
    monkeypatch.setenv("KDLAB_RUN", str(tmp_path / "run"))
    (tmp_path / "run").mkdir()
    done = run(compose_run([*TINY, *overrides]), folder=tmp_path / "run")
    jsonschema.validate(json.loads((tmp_path / "run" / "result.json").read_text()), json.loads(SCHEMA.read_text()))
    return done.result["student"]


def says(folder):
    network = load_student(folder)
    with torch.no_grad():
        return network(torch.ones(1, 1, 8, 8)), sum(parameter.numel() for parameter in network.parameters())


def test_the_best_of_equal_peers_by_validation_is_kept_and_all_are_listed(tmp_path, monkeypatch):
    student = outcome(tmp_path, monkeypatch, "mode=dml", "mode.peers=2")
    rows = {student["kept"]: student, **student["peers"]}
    assert set(rows) == {"student", "peer1", "peer2", "ensemble"}
    last = {name: row["validation"]["last"] for name, row in rows.items() if name != "ensemble"}
    assert last[student["kept"]] == max(last.values())
    assert rows["ensemble"]["parameters"] == 3 * rows["peer1"]["parameters"]
    final = read_metrics(tmp_path / "run" / "metrics.csv")[-1]
    assert final["validation/peer2/accuracy"] == rows["peer2"]["validation"]["last"]
    assert says(tmp_path / "run")[1] == rows["student"]["parameters"]


def test_a_larger_peer_is_never_kept_in_the_students_place(tmp_path, monkeypatch):
    student = outcome(tmp_path, monkeypatch, "mode=dml", "mode.peers=[resnet8]", "trainer.max_epochs=1")
    assert student["kept"] == "student"
    assert student["peers"]["peer1"]["parameters"] > student["parameters"]


@pytest.mark.parametrize(
    ("mode", "kept", "others"),
    [
        ("kdcl", "ensemble", {"student", "peer1"}),
        ("one", "ensemble", {"student", "branch1", "branch2"}),
        ("byot", "exit1", {"student", "exit2"}),
        ("ema", "average", {"student"}),
    ],
)
def test_what_was_asked_for_is_kept_and_rebuilt_from_the_run_folder(tmp_path, monkeypatch, mode, kept, others):
    student = outcome(tmp_path, monkeypatch, f"mode={mode}", f"mode.kept={kept}", "trainer.max_epochs=1")
    assert student["kept"] == kept
    assert set(student["peers"]) == others
    logits, parameters = says(tmp_path / "run")
    assert logits.shape == (1, 10)
    assert parameters == student["parameters"]
    final = read_metrics(tmp_path / "run" / "metrics.csv")[-1]
    assert final["validation/accuracy"] == student["validation"]["last"]
    if mode == "byot":
        assert student["multiply_accumulates"] < student["peers"]["student"]["multiply_accumulates"]


def test_each_learner_may_step_with_an_optimizer_of_its_own():
    config = compose_run([*TINY, "mode=dml", "+optimizer@mode.optimizers.peer1=adam"])
    parts = assemble(config, samples=256)
    made = []

    def optimizer(parameters, own):
        made.append((own, set(parameters)))
        return Adam(parameters, lr=0.01, eps=1e-12) if own else SGD(parameters, lr=0.0)

    distiller = Distiller(parts, 4, optimizer, lambda made, *_: (ConstantLR(made, 1.0), "step"))
    before = [[p.detach().clone() for p in network.parameters()] for network in parts.mode.learners]
    data = prepare(Digits(), config.data.plain())
    settings = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    trainer = pl.Trainer(
        max_steps=1, enable_model_summary=False, num_sanity_val_steps=0, log_every_n_steps=1, **settings
    )
    trainer.fit(distiller, data.train_loader(64, 0), data.eval_loader("validation", 64))
    (none, rest), (own, peers) = made
    assert (none, own["_target_"]) == (None, "torch.optim.Adam")
    assert peers == set(parts.mode.learners[1].parameters())
    assert not peers & rest
    assert (trainer.global_step, distiller.steps) == (1, 1)
    moved = [
        torch.cat([(a.detach() - b).flatten() for a, b in zip(network.parameters(), start, strict=True)])
        for network, start in zip(parts.mode.learners, before, strict=True)
    ]
    assert moved[0].abs().max() == 0
    # The first step of Adam is the rate, whatever the gradient.
    torch.testing.assert_close(moved[1][moved[1].abs() > 1e-4].abs().median(), torch.tensor(0.01), rtol=1e-3, atol=0)


def test_the_steps_of_all_optimizers_count_once(tmp_path):
    config = compose_run([*TINY, "mode=dml", "+optimizer@mode.optimizers.peer1=adam", "trainer.max_steps=3"])
    data = prepare(Digits(), config.data.plain())
    trained = fit(config, data, tmp_path, job="dml")
    assert trained.result["epochs"] == 3 / 4


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["mode=dml", "mode.kept=peer7"], r"^mode.kept=peer7: expected best or student or peer1 or ensemble$"),
        (["mode=dml", "data.validation=0"], r"^mode.kept=best selects by validation, and data.validation=0 has none"),
        (["mode=dml", "+optimizer@mode.optimizers.peer1=adamw", "trainer.precision=16-mixed"],
         r"^trainer.precision=16-mixed scales one optimizer's gradients; type bf16-mixed$"),
        (["mode=dml", "+optimizer@mode.optimizers.peer9=adamw"],
         r"^mode.optimizers.peer9: expected one of the learners, student or peer1$"),
        (["mode=offline", "mode.peers=[resnet8]"], r"^mode.peers=.*: expected none: this mode trains one network$"),
        (["mode=kdcl", "mode.views=[other]"], r"the mode shows the view 'other', which data.views does not have"),
        (["mode=one", "mode.branches=1"], r"^mode.branches=1: expected 2 or more"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_before_anything_trains(overrides, said):
    with pytest.raises(UsageError, match=said):
        Preflight().check(compose_run([*TINY, *overrides]))


@pytest.mark.parametrize(("word", "steps", "meant"), [("steps", 10, 10), ("steps/4", 10, 3), ("steps/20", 10, 1)])
def test_words_of_a_schedule_stand_for_the_phase(word, steps, meant):
    optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    cyclic = {**compose(["scheduler=cyclic"]).scheduler, "T_0": word}
    schedule, interval = make_scheduler(cyclic, optimizer, 3, steps, [])
    assert (schedule.T_0, interval) == (meant, "step")


def test_one_cycle_peaks_at_the_rate_of_whichever_optimizer_it_is_given():
    """So a learner, or a phase, with an optimizer of its own has the rate that was asked of that."""
    one_cycle = compose(["scheduler=one_cycle"]).scheduler
    for lr in (0.1, 1e-3):
        optimizer = AdamW([torch.nn.Parameter(torch.zeros(1))], lr=lr)
        schedule, _ = make_scheduler(one_cycle, optimizer, 1, 20, [])
        rates = []
        for _ in range(20):
            rates += schedule.get_last_lr()
            optimizer.step()
            if len(rates) < 20:
                schedule.step()
        assert max(rates) == pytest.approx(lr, rel=0.05)


def test_a_schedule_moves_with_the_epochs_unless_it_says_steps():
    optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    settings = {"_target_": "torch.optim.lr_scheduler.StepLR", "step_size": "epochs/3"}
    schedule, interval = make_scheduler(settings, optimizer, 9, 90, [])
    assert (schedule.step_size, interval) == (3, "epoch")
