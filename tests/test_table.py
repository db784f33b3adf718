"""A table of record: trained cell by cell, resumable, its figures those of the runs."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean

import pytest
import yaml

from kdlab.core.errors import UsageError
from kdlab.study.record import read_record
from kdlab.table import main
from support.tiny_runs import TINY, machine

TABLE = {
    "overrides": [*TINY, "trainer.progress=false", "trainer.max_epochs=1", "teacher.trainer.max_epochs=1"],
    "seeds": 3,
    "against": "alone",
    "rows": {"alone": ["mode=supervised"], "kd": ["loss=kd"]},
}


@pytest.fixture
def place(tmp_path: Path):
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(TABLE))
    with machine(tmp_path / "home"):
        yield tmp_path


def table(place: Path, *arguments: str) -> int:
    return main([str(place / "small.yaml"), "--runs", str(place / "runs"), *arguments])


def test_a_table_holds_what_its_runs_measured_and_goes_on_where_it_stopped(place, capsys):
    assert table(place, "--minutes", "0.0001") == 0, "the first cell is trained before the clock is looked at"
    lines = [*filter(None, (place / "runs" / "small" / "results.jsonl").read_text().splitlines())]
    assert [(row["row"], row["seed"]) for row in map(json.loads, lines)] == [("alone", 1)]
    with (place / "runs" / "small" / "results.jsonl").open("a") as file:
        file.write('{"key": "cut o')  # a write that a stop cut off
    capsys.readouterr()
    assert table(place) == 0
    results = [json.loads(file.read_text()) for file in (place / "runs" / "small" / "cells").glob("*/result.json")]
    assert len(results) == 6, "no cell was trained twice"
    by_row = {"alone": {}, "kd": {}}
    for result in results:
        row, seed = result["name"].rsplit("-seed", 1)
        by_row[row][int(seed)] = result["student"]["test"]["last"]["accuracy"]
    assert by_row["alone"].keys() == by_row["kd"].keys() == {1, 2, 3}
    out = capsys.readouterr().out
    gain = fmean(by_row["kd"][seed] - by_row["alone"][seed] for seed in (1, 2, 3))
    line = next(line for line in out.splitlines() if line.startswith("| kd "))
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[1].split(" ")[0] == f"{fmean(by_row['kd'].values()):.4f}"
    assert cells[2].startswith(f"{gain:+.4f}".replace("-", "−"))
    assert cells[-1] == "3"
    assert sum(line.startswith("| teacher ") for line in out.splitlines()) == 1, "one teacher taught them all"
    assert out.endswith((place / "runs" / "small" / "table.md").read_text())
    capsys.readouterr()
    assert table(place) == 0
    assert len(list((place / "runs" / "small" / "cells").iterdir())) == 6


@pytest.mark.parametrize("name", ["sst2", "shakespeare"])
def test_the_tables_that_ship_can_be_composed(name):
    record = read_record(Path(__file__).parents[1] / "sweeps" / f"{name}.yaml")
    assert (
        len({cell.key for cell in record.cells})
        == len(record.cells)
        == record.settings.seeds * len(record.settings.rows)
    )


def test_another_setting_is_another_cell(place):
    first, second = (read_record(place / "small.yaml", [f"optimizer.lr={rate}"]) for rate in (0.1, 0.2))
    assert not {cell.key for cell in first.cells} & {cell.key for cell in second.cells}
    assert [cell.key for cell in first.cells] == [cell.key for cell in read_record(place / "small.yaml", []).cells]
    assert [(cell.row, cell.seed) for cell in first.cells][:3] == [("alone", 1), ("kd", 1), ("alone", 2)]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rows": {}}, "expected a row or more, and seeds: 1 or more"),
        ({"against": "allone"}, "against=allone: there is no such row; did you mean alone?"),
        ({"rows": {"kd": ["loss=kdd"]}, "against": None}, "rows.kd: loss=kdd: no such option"),
        ({"rows": {"a/b": []}, "against": None}, "rows.a/b: expected a name that can be a folder's"),
        ({"sedes": 3}, "sedes: there is no such key; did you mean seeds?"),
        ({"seeds": "many"}, "seeds=many: expected a whole number"),
    ],
)
def test_a_wrong_table_is_refused_in_one_line(place, change, said):
    (place / "small.yaml").write_text(yaml.safe_dump({**TABLE, **change}))
    with pytest.raises(UsageError) as error:
        read_record(place / "small.yaml")
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_rows_of_the_same_settings_are_trained_once_and_both_shown(place):
    rows = {"kd": ["loss=kd"], "the same": ["loss=kd", "loss.alpha=0.9"]}
    (place / "small.yaml").write_text(yaml.safe_dump({**TABLE, "seeds": 1, "against": None, "rows": rows}))
    record = read_record(place / "small.yaml", runs=place / "runs")
    (first, second) = record.cells
    result = {"primary": "accuracy", "titles": {}, "directions": {}, "data": {"fingerprint": "a"},
              "student": {"test": {"last": {"accuracy": 0.5}}}}  # fmt: skip
    assert first.key == second.key
    record.add(first, result)
    assert not list(record.missing())
    assert record.values("accuracy") == {"kd": {1: 0.5}, "the same": {1: 0.5}}


def test_results_over_data_that_were_changed_are_refused(place):
    record = read_record(place / "small.yaml", runs=place / "runs")
    for cell, content in zip(record.cells, "ab", strict=False):
        record.add(cell, {"data": {"fingerprint": content}})
    with pytest.raises(UsageError, match="over files of data that were changed meanwhile; delete it"):
        record.measured()
