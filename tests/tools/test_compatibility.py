"""The table of every loss in every mode, and of what every mode gains over its student alone."""

from io import StringIO

import pytest
from rich.console import Console

from kdlab.config.compose import compose, groups
from kdlab.tools.compatibility import SMALL, attempt, grid, print_grid, print_measured


def test_the_table_has_a_row_per_loss_a_column_per_mode_and_the_reasons_below():
    cells = {("kd", "dml"): None, ("kd", "tf_kd"): None, ("at", "dml"): None,
             ("at", "tf_kd"): "loss=at needs the teacher's stages, which this run does not provide"}  # fmt: skip
    console = Console(record=True, width=100, file=StringIO())
    print_grid(cells, console)
    shown = console.export_text()
    assert "3 of 4 work." in shown
    assert "1: needs the teacher's stages, which this run does not provide" in shown
    assert [line.count("✓") for line in shown.splitlines() if line.startswith("│ ")] == [2, 1]


def test_a_measurement_shows_mean_spread_and_gain():
    console = Console(record=True, width=100, file=StringIO())
    print_measured({"dml": [(0.90, 0.92), (0.94, 0.93)]}, console)
    (row,) = [line for line in console.export_text().splitlines() if "dml" in line]
    assert [cell.strip() for cell in row.strip("│").split("│")] == [
        "dml", "0.9200 ± 0.0283", "0.9250 ± 0.0071", "+0.0050", "−0.1856 to +0.1956", "2"
    ]  # fmt: skip  # t with one degree of freedom is 12.706, times 0.0212 / √2


def test_the_grid_is_over_all_losses_and_all_modes_that_teach(monkeypatch):
    monkeypatch.setattr("kdlab.tools.compatibility.attempt", lambda config: None)
    other = {"supervised", "on_policy", "minillm", "sequence_level"}  # labels alone, and modes that continue texts
    assert set(grid([])) == {(name, mode) for name in groups()["loss"] for mode in {*groups()["mode"]} - other}


TEXT = ["data=text", "data.classes=4", "model=bert_tiny", "teacher=bert_tiny"]
LANGUAGE = ["data=corpus", "model=gpt_tiny", "teacher=gpt_tiny"]
SEQUENCES = ["data.path=.", "data.vocabulary=50", "data.length=12", "model.width=0.25", "teacher.model.width=0.5"]


@pytest.mark.parametrize(
    ("data", "loss", "mode", "reason"),
    [
        (TEXT, "tinybert", "offline", None),
        (TEXT, "crd", "dml", None),
        (TEXT, "kd", "dlb", None),
        (TEXT, "kd", "ps_kd", None),
        (TEXT, "reviewkd", "dml", "compares planes"),
        (LANGUAGE, "kd", "offline", None),
        (LANGUAGE, "dkd", "ema", None),
        (LANGUAGE, "crd", "dml", "one prediction for each sample"),
        (LANGUAGE, "kd", "ps_kd", "one prediction for each sample"),
    ],
)
def test_cells_of_texts_and_of_models_of_language_work_or_have_a_reason(data, loss, mode, reason):
    pytest.importorskip("transformers")
    found = attempt(compose([*SMALL, *data, *SEQUENCES, f"loss={loss}", f"mode={mode}"]))
    assert found is None if reason is None else reason in found
