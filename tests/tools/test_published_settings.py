"""What was published stands beside what a run of ours has: nothing is called the same that is not."""

from __future__ import annotations

import pytest
import yaml

from kdlab.config.compose import groups
from kdlab.core.errors import UsageError
from kdlab.tools import published_settings
from kdlab.tools.method_table import main
from kdlab.tools.published_settings import FOLDER, KINDS, UNPUBLISHED, rows, table

WRITTEN = [kind for kind in KINDS if (FOLDER / f"{kind}.yaml").is_file()]


@pytest.mark.parametrize("kind", WRITTEN)
def test_a_setting_of_ours_is_the_published_one_or_says_why_not(kind):
    unsaid = [row for row in rows(kind) if not row.same and not row.why and row.published != UNPUBLISHED]
    overdone = [row for row in rows(kind) if row.same and row.why]
    assert unsaid == overdone == []


@pytest.mark.parametrize("kind", WRITTEN)
def test_an_origin_is_a_paper_or_a_file(kind):
    assert [row for row in rows(kind) if "/" not in row.origin and not any(c.isdigit() for c in row.origin)] == []


@pytest.mark.parametrize(("kind", "group"), [("losses", "loss"), ("modes", "mode")])
def test_every_method_has_a_row(kind, group):
    if kind in WRITTEN:
        assert {row.method for row in rows(kind)} >= {*groups()[group]} - {"supervised"}


def test_every_loss_has_its_weight_or_those_of_its_terms():
    weighed = {row.method for row in rows("losses") if "weight" in row.what}
    assert weighed == {*groups()["loss"]}


def test_what_is_not_published_says_so():
    # The losses of which no paper and no code has a weight for CIFAR-100 beside labels.
    said = {row.method for row in rows("losses") if row.published == UNPUBLISHED}
    assert {"wttm", "cwd", "jsd", "reverse_kl", "logit_mse"} <= said
    assert all(f"| {UNPUBLISHED} |" in line for line in table(("losses",)).splitlines() if line.startswith("| `logit_"))


@pytest.fixture
def written(tmp_path, monkeypatch):
    def write(*entries):
        (tmp_path / "losses.yaml").write_text(yaml.safe_dump({"kd": list(entries)}))
        return rows("losses")

    monkeypatch.setattr(published_settings, "FOLDER", tmp_path)
    rows.cache_clear()
    yield write
    rows.cache_clear()


def test_ours_is_read_from_the_run_that_the_row_names(written):
    row = {"what": "T", "with": ["loss=kd", "loss.temperature=3"], "key": "loss.heads.kd.temperature", "origin": "A 1"}
    (found, other) = written({**row, "published": 3}, {**row, "published": 4, "why": "too hot"})
    assert (found.ours, found.verdict, other.verdict) == (3, "same", "too hot")
    lines = table().splitlines()
    assert lines[0] == "## Losses"
    assert lines[-1] == "| `kd` | T | 4 | 3 | too hot | A 1 |"


@pytest.mark.parametrize(
    ("change", "said"),
    [({"key": "loss.heads.kd.heat"}, "no key loss.heads.kd.heat"), ({"keys": 1}, "expected what, key or ours"),
     ({"ours": 4}, "expected what, key or ours")],
)  # fmt: skip
def test_a_row_that_cannot_be_read_is_refused(written, change, said):
    row = {"what": "T", "with": ["loss=kd"], "key": "loss.heads.kd.temperature", "origin": "A 1", "published": 4}
    with pytest.raises(UsageError, match=said):
        written({**row, **change})


def test_the_command_prints_the_table(written, capsys):
    written({"what": "T", "ours": 4, "origin": "A 1", "published": 4})
    assert main(["--published"]) == 0
    assert capsys.readouterr().out.endswith("| `kd` | T | 4 | 4 | same | A 1 |\n")
