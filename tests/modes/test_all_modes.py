"""Every loss in every mode: the cells that the papers allow train, and the others are refused for the right reason."""

from functools import cache
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from kdlab.config.compose import compose, conf_folder, groups
from kdlab.config.instantiate import resolve
from kdlab.modes.mode import Mode
from kdlab.run.builder import Config
from kdlab.tools.compatibility import SMALL, attempt, grid, modes, print_grid, print_measured
from support.impossible import BEYOND_LOGITS, FROZEN_TEACHER, GRAFTS, LOGITS, NO_NETWORK, refused_in

LOSSES, MODES = groups()["loss"], groups()["mode"]
HOME = Path(__file__).parents[2] / "src" / "kdlab" / "modes"


@cache
def config(mode: str) -> Config:
    return compose([*SMALL, f"mode={mode}", "scheduler=cosine", "loss=kd"])


@cache
def loss(name: str) -> Config:
    return compose([f"loss={name}"])["loss"]


@pytest.mark.parametrize("mode", modes())
def test_losses_work_in_a_mode_where_it_offers_what_their_papers_compare(mode):
    found = {name: attempt({**config(mode), "loss": loss(name)}) for name in LOSSES}
    expected = {name: refused_in(name, mode) for name in LOSSES}
    assert {name for name in LOSSES if found[name]} == {name for name in LOSSES if expected[name]}
    for name, words in expected.items():
        assert words is None or found[name].startswith(f"loss={name} {words}")


def test_the_table_of_what_cannot_be_combined_knows_every_loss_and_mode():
    assert {*LOGITS, *BEYOND_LOGITS, *GRAFTS} == set(LOSSES)
    assert set(modes()) > NO_NETWORK | FROZEN_TEACHER


def test_every_mode_is_a_file_a_yaml_and_a_test_that_cites_its_paper():
    files = {file.stem for file in HOME.glob("*.py") if not file.stem.startswith("_")} - {"mode"}
    assert files == set(MODES)
    for mode in MODES:
        target = resolve(config(mode)["mode"]["_target_"], Mode, "mode")
        assert target.__module__ == f"kdlab.modes.{mode}"
        assert (conf_folder() / "mode" / f"{mode}.yaml").read_text().startswith("# ")
        if mode != "supervised":
            assert (Path(__file__).parent / f"test_{mode}.py").is_file()
            head = (HOME / f"{mode}.py").read_text().split('"""')[1]
            assert any(year in head for year in map(str, range(2014, 2027))), f"{mode} cites no paper"


def test_the_table_has_a_row_per_loss_a_column_per_mode_and_the_reasons_below():
    cells = {("kd", "dml"): None, ("kd", "tf_kd"): None, ("at", "dml"): None,
             ("at", "tf_kd"): "loss=at needs the teacher's stages, which are not to be had here"}  # fmt: skip
    console = Console(record=True, width=100, file=StringIO())
    print_grid(cells, console)
    shown = console.export_text()
    assert "3 of 4 work." in shown
    assert "1: needs the teacher's stages, which are not to be had here" in shown
    assert [line.count("✓") for line in shown.splitlines() if line.startswith("│ ")] == [2, 1]


def test_a_measurement_shows_mean_spread_and_gain():
    console = Console(record=True, width=100, file=StringIO())
    print_measured({"dml": [(0.90, 0.92), (0.94, 0.93)]}, console)
    (row,) = [line for line in console.export_text().splitlines() if "dml" in line]
    assert [cell.strip() for cell in row.strip("│").split("│")] == [
        "dml", "0.9200 ± 0.0283", "0.9250 ± 0.0071", "+0.0050", "-0.1856 to +0.1956", "2"
    ]  # fmt: skip  # t with one degree of freedom is 12.706, times 0.0212 / √2


def test_the_grid_is_over_all_losses_and_all_modes_that_teach(monkeypatch):
    monkeypatch.setattr("kdlab.tools.compatibility.attempt", lambda config: None)
    monkeypatch.setattr("kdlab.tools.compatibility.compose", lambda overrides: {"loss": {}})
    assert set(grid([])) == {(name, mode) for name in LOSSES for mode in MODES if mode != "supervised"}
