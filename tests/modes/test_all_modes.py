"""Every loss in every mode: what each needs and each offers says which cells can be, and those that can, train."""

from functools import cache
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from kdlab.config.compose import compose, conf_folder, groups
from kdlab.config.instantiate import resolve
from kdlab.config.schema import LossConfig, RunConfig
from kdlab.core.knowledge import Offer
from kdlab.modes.mode import Mode
from kdlab.run.builder import assemble, make_terms
from kdlab.run.derive import drop_unused
from kdlab.tools.compatibility import SMALL, attempt, grid, modes, print_grid, print_measured

LOSSES, MODES = groups()["loss"], groups()["mode"]
HOME = Path(__file__).parents[2] / "src" / "kdlab" / "modes"


@cache
def config(mode: str) -> RunConfig:
    return compose([*SMALL, f"mode={mode}", "scheduler=cosine", "loss=kd"])


@cache
def put_together(mode: str) -> Mode:
    return assemble(drop_unused(config(mode))).mode


@cache
def loss(name: str) -> LossConfig:
    return compose([f"loss={name}"]).loss


def expected(name: str, mode: Mode) -> list[str] | None:
    """What is missing; None where the loss needs a frozen teacher to build into the student."""
    (term,) = make_terms(loss(name).heads)
    head = term.make()
    if head.grafts and not mode.teachers:
        return None
    needs = head.needs()
    edges = [edge for edge in mode.edges if head.kind in edge.kinds]
    return [
        what for edge in edges for what in needs.unmet(Offer(*mode.offers(edge), views=(*mode.views, *needs.views)))
    ]


@pytest.mark.parametrize("mode", modes())
def test_losses_work_in_a_mode_where_it_offers_what_they_need(mode):
    for name in LOSSES:
        reason = attempt(config(mode).replace(loss=loss(name)))
        missing = expected(name, put_together(mode))
        if missing is None:
            assert reason == f"loss={name} builds parts of a frozen teacher into the student; this run has none"
        elif missing:
            assert reason is not None, f"loss={name} mode={mode} lacks {missing}"
            assert reason.startswith(f"loss={name} needs {missing[0]}")
        else:
            assert reason is None, f"loss={name} mode={mode}: {reason}"


def test_response_losses_lack_nothing_in_any_mode():
    responses = [name for name in LOSSES if make_terms(loss(name).heads)[0].make().kind == "response"]
    assert "kd" in responses
    for mode in modes():
        for name in responses:
            assert expected(name, put_together(mode)) == [], f"loss={name} mode={mode}"


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
    monkeypatch.setattr("kdlab.tools.compatibility.compose", lambda overrides: config("dml"))
    assert set(grid([])) == {(name, mode) for name in LOSSES for mode in MODES if mode != "supervised"}
