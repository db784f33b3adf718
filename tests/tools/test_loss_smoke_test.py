"""Two epochs on the digits, without labels: what a head says of the student falls."""

from __future__ import annotations

import json

import pytest

from kdlab.tools import loss_smoke_test as tryout
from kdlab.tools.loss_smoke_test import EPOCHS, EXCEPTIONS, LIMIT, Tryout, digits_result, main

# Of Lightning's own making; outside tests `kdlab.run.fit` silences it.
pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated")

HEADS = tryout.losses()
QUICK = ("kd", "ft", "rkd", "simkd")  # of each kind one; ft prepares a part of its own, simkd stays in the student


@pytest.fixture(scope="session")
def one_teacher_for_all(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDLAB_HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in HEADS]
)
def test_the_heads_own_term_falls(name, tmp_path, one_teacher_for_all):
    found = digits_result(name, tmp_path)
    _, limit, _ = EXCEPTIONS.get(name, (EPOCHS, LIMIT, ""))
    assert 0 < found.end < limit * found.start


def test_few_heads_are_excepted_and_each_has_its_reason():
    assert EXCEPTIONS.keys() < set(HEADS)
    assert len(EXCEPTIONS) <= 3
    for epochs, limit, reason in EXCEPTIONS.values():
        assert (epochs > EPOCHS) != (limit > LIMIT)
        assert limit < 1
        assert reason


def test_the_command_prints_a_line_for_each_loss_and_fails_where_a_term_did_not_fall(tmp_path, monkeypatch, capsys):
    tryouts = {"kd": Tryout(4.0, 3.0, 0.5), "soft_ce": Tryout(36.0, 33.6, 0.6), "crd": Tryout(20.0, 19.0, 0.1)}
    monkeypatch.setattr(tryout, "digits_result", lambda name, folder: tryouts[name])
    assert main(["kd", "soft_ce", "--json", str(tmp_path / "digits.json")]) == 0
    kd, soft_ce = capsys.readouterr().out.splitlines()
    assert kd.split() == ["kd", "4", "3", "0.750", "0.500"]
    assert soft_ce.split()[:5] == ["soft_ce", "36", "33.6", "0.933", "0.600"]
    assert "entropy" in soft_ce
    written = json.loads((tmp_path / "digits.json").read_text())
    assert written["kd"] == {"start": 4.0, "end": 3.0, "accuracy": 0.5, "ratio": 0.75}
    assert main(["crd"]) == 1
    assert main(["crdd"]) == 2
    assert capsys.readouterr().err == "kdlab: crdd: no such loss; did you mean crd?\n"
