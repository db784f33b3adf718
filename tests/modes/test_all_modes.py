"""Every loss in every mode: the cells that the papers allow train, and the others are refused for the right reason."""

from functools import cache
from pathlib import Path

import pytest

from kdlab.config.compose import compose, conf_folder, groups
from kdlab.config.instantiate import resolve
from kdlab.config.schema import LossConfig, RunConfig
from kdlab.modes.mode import Mode
from kdlab.tools.compatibility import SMALL, attempt, modes
from support.impossible import BEYOND_LOGITS, FROZEN_TEACHER, GRAFTS, LOGITS, NO_NETWORK, TRANSFORMERS, refused_in

LOSSES, MODES = groups()["loss"], groups()["mode"]
HOME = Path(__file__).parents[2] / "src" / "kdlab" / "modes"


@cache
def config(mode: str) -> RunConfig:
    return compose([*SMALL, f"mode={mode}", "scheduler=cosine", "loss=kd"])


@cache
def loss(name: str) -> LossConfig:
    return compose([f"loss={name}"]).loss


@pytest.mark.parametrize("mode", modes())
def test_losses_work_in_a_mode_where_it_offers_what_their_papers_compare(mode):
    found = {name: attempt(config(mode).replace(loss=loss(name))) for name in LOSSES}
    expected = {name: refused_in(name, mode) for name in LOSSES}
    assert {name for name in LOSSES if found[name]} == {name for name in LOSSES if expected[name]}
    for name, words in expected.items():
        assert words is None or found[name].startswith(f"loss={name} {words}")


def test_the_table_of_what_cannot_be_combined_knows_every_loss_and_mode():
    assert {*LOGITS, *BEYOND_LOGITS, *TRANSFORMERS, *GRAFTS} == set(LOSSES)
    assert set(modes()) > NO_NETWORK | FROZEN_TEACHER


def test_every_mode_is_a_file_a_yaml_and_a_test_that_cites_its_paper():
    files = {file.stem for file in HOME.glob("*.py") if not file.stem.startswith("_")} - {"mode"}
    assert files == set(MODES)
    for mode in MODES:
        target = resolve(config(mode).mode.target, Mode, "mode")
        assert target.__module__ == f"kdlab.modes.{mode}"
        assert (conf_folder() / "mode" / f"{mode}.yaml").read_text().startswith("# ")
        if mode != "supervised":
            assert (Path(__file__).parent / f"test_{mode}.py").is_file()
            head = (HOME / f"{mode}.py").read_text().split('"""')[1]
            assert any(year in head for year in map(str, range(2014, 2027))), f"{mode} cites no paper"
