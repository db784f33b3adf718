"""A report of a run, and of a folder of runs: what is printed, and the page."""

import json
import shutil
from pathlib import Path

import jsonschema
import pytest

from kdlab.report import main
from kdlab.reporting.comparison_tables import compare_settings, compare_with_alone
from kdlab.reporting.runs import distinguishing_labels, read_run, result_sets
from kdlab.run.result import SCHEMA
from support.reports import ALONE, TEACHER, refused, reported, text
from support.written_runs import write_run


def groups(folder):
    (results,) = result_sets([read_run(run) for run in sorted(folder.iterdir())])
    return results


def test_written_runs_are_as_the_schema_of_results_wants_them(five):
    for run in five.iterdir():
        jsonschema.validate(json.loads((run / "result.json").read_text()), json.loads(SCHEMA.read_text()))


def test_a_run_shows_its_table_and_its_curves(tmp_path, capsys):
    run = write_run(tmp_path / "mine", 3, (0.95, 0.96), ALONE, TEACHER, gap_closed={"last": 0.625, "best": None})
    printed, page = reported(capsys, run)
    assert "0.9500" in printed
    assert "seed 3" in text(page)
    assert "distillation closed 62% at the last epoch." in text(page)
    for number in ("0.9500", "0.9600", "0.9000", "0.9800", "500,000"):
        assert number in text(page)
    assert page.count("<svg viewBox") >= 2
    assert "distilled: 0.9500 at the end" in page
    assert "teacher 0.9900" in page


def test_a_run_trained_alone_has_a_report_too(tmp_path, capsys):
    run = write_run(tmp_path / "alone", 0, (0.9, 0.9), overrides=("mode=supervised",))
    assert "0.9000" in text(reported(capsys, run)[1])


def test_a_student_alone_from_the_store_is_a_level_line(tmp_path, capsys):
    run = write_run(tmp_path / "mine", 0, (0.95, 0.96), ALONE, TEACHER)
    shutil.rmtree(run / "alone")
    assert "alone 0.9000" in reported(capsys, run)[1]


def test_five_seeds_are_told_as_mean_interval_and_paired_test(five, capsys):
    # Differences 0.01 to 0.05: mean 0.03, deviation 0.0158; t(4) is 2.776, so ± 0.0196. One sign: p = 2 / 32.
    printed, page = reported(capsys, five)
    for words in ("0.9300", "± 0.0196", "+0.0300", "+0.0104 to +0.0496", "0.0625"):
        assert words in printed
        assert words in text(page)
    assert "kd is better than alone: +0.0300 on average over 5 seeds" in " ".join(printed.split())
    assert "seeds 1 to 5" in printed
    assert "With 5 seeds it cannot be below 0.0625" in " ".join(printed.split())


def test_last_and_best_epoch_are_told_apart(five, capsys):
    printed, _ = reported(capsys, five)
    assert "0.9200" in printed  # best epoch, distilled
    assert "0.9100" in printed  # best epoch, alone
    assert "+0.0100 to +0.0100" in printed


def test_an_interval_that_holds_zero_is_no_difference(tmp_path, capsys):
    for seed, distilled in enumerate((0.91, 0.89, 0.90, 0.92)):
        write_run(tmp_path / f"run{seed}", seed, (distilled, distilled), ALONE, TEACHER)
    assert "does not differ significantly from alone" in text(reported(capsys, tmp_path)[1])


def test_one_seed_claims_nothing(tmp_path, capsys):
    write_run(tmp_path / "run0", 0, (0.99, 0.99), ALONE, TEACHER)
    assert "with one seed, which says little" in text(reported(capsys, tmp_path)[1])


def test_runs_are_grouped_by_all_but_their_seeds(tmp_path):
    write_run(tmp_path / "a", 0, (0.9, 0.9), ALONE, TEACHER)
    write_run(tmp_path / "b", 1, (0.9, 0.9), ALONE, TEACHER, overrides=("trainer.devices=1", "teacher.seed=3"))
    write_run(tmp_path / "c", 0, (0.9, 0.9), ALONE, TEACHER, overrides=("loss.temperature=2",))
    write_run(tmp_path / "d", 0, (0.9, 0.9), ALONE, TEACHER, overrides=("loss=dkd",))
    write_run(tmp_path / "e", 0, (0.9, 0.9), overrides=("mode=supervised",))
    found = {group.label: group.seeds for group in groups(tmp_path).groups}
    assert found == {"kd loss.temperature=4": [0, 1], "kd loss.temperature=2": [0], "dkd": [0], "labels alone": [0]}


def test_runs_that_share_a_seed_count_once(tmp_path):
    write_run(tmp_path / "a", 0, (0.90, 0.9), ALONE, TEACHER)
    write_run(tmp_path / "b", 0, (0.94, 0.9), ALONE, TEACHER, overrides=("teacher.seed=1",))
    write_run(tmp_path / "c", 1, (0.95, 0.9), ALONE, TEACHER)
    (group,) = groups(tmp_path).groups
    assert group.test("student", "last") == pytest.approx({0: 0.92, 1: 0.95})


def test_runs_on_other_data_are_not_compared(tmp_path):
    other = {"data": {"fingerprint": "e" * 64, "train": 1, "validation": 1, "test": 1}}
    write_run(tmp_path / "a", 0, (0.9, 0.9), ALONE, TEACHER)
    write_run(tmp_path / "b", 0, (0.9, 0.9), ALONE, TEACHER, **other)
    assert len(result_sets([read_run(tmp_path / "a"), read_run(tmp_path / "b")])) == 2


def test_settings_are_compared_on_their_common_seeds_with_plain_kd(tmp_path):
    for seed in range(4):
        write_run(tmp_path / f"0dist{seed}", seed, (0.95, 0.9), ALONE, TEACHER, overrides=("loss=dist",))
        write_run(tmp_path / f"1kd{seed}", seed + 1, (0.94, 0.9), ALONE, TEACHER)
    (found,) = compare_settings(groups(tmp_path), "last")
    assert (found.label, found.against, found.seeds) == ("dist", "kd", (1, 2, 3))
    assert found.paired.mean.value == pytest.approx(0.01)


def test_p_is_corrected_for_the_number_of_settings(tmp_path):
    for seed in range(5):
        for loss, gain in (("kd", 0.01), ("dkd", 0.02), ("dist", 0.001 * (seed - 2))):
            overrides = () if loss == "kd" else (f"loss={loss}",)
            write_run(tmp_path / f"{loss}{seed}", seed, (0.9 + gain, 0.9), ALONE, TEACHER, overrides=overrides)
    # Uncorrected 1/16, 1/16 and 1: times 3, times 2 but no less than before, times 1.
    found = compare_with_alone(groups(tmp_path), "last")
    assert {label: one.wilcoxon_holm for label, one in found.items()} == {"kd": 0.1875, "dkd": 0.1875, "dist": 1.0}


def test_of_several_comparisons_better_is_what_is_left_after_the_correction(tmp_path, capsys):
    # Differences of 1 to 5 by 1/100: t = 3 / (√2.5 / √5) = 4.243, p 0.013236, times as many as there are settings.
    found_p = {3: 0.0397, 5: 0.0662}
    for settings, said in ((3, "=1 is better than alone"), (5, "=1 does not differ significantly from alone")):
        for temperature in range(settings):
            for seed in range(5):
                written = (0.91 + 0.01 * seed, 0.9)
                folder = tmp_path / str(settings) / f"kd{temperature}-{seed}"
                write_run(folder, seed, written, ALONE, TEACHER, overrides=(f"loss.temperature={temperature + 1}",))
        found = compare_with_alone(groups(tmp_path / str(settings)), "last")
        assert [one.p_holm for one in found.values()] == pytest.approx([0.013236 * settings] * settings, rel=1e-3)
        sentence = next(iter(found.values())).sentence("max")
        assert said in sentence
        assert f"t test, Holm-corrected for {settings} comparisons: p {found_p[settings]}" in sentence
    printed, page = reported(capsys, tmp_path / "5")
    assert "t, Holm" in printed
    assert "0.0662" in printed
    assert "Intervals and Wilcoxon p are uncorrected; on the page the Holm-corrected p" in text(page)


def test_the_user_may_name_whom_to_compare_with(tmp_path, capsys):
    for loss in ("kd", "dkd", "dist"):
        overrides = () if loss == "kd" else (f"loss={loss}",)
        write_run(tmp_path / loss, 0, (0.9, 0.9), ALONE, TEACHER, overrides=overrides)
    printed, _ = reported(capsys, tmp_path, "--against", "dist")
    assert "kd − dist" in printed
    assert "dkd − dist" in printed
    assert "did you mean dist?" in refused(capsys, tmp_path, "--against", "dits")


def test_less_is_better_where_the_metric_says_so(tmp_path, capsys):
    for seed in range(3):
        write_run(
            tmp_path / f"run{seed}", seed, (0.8 + seed / 1000, 0.8), ALONE, TEACHER, directions={"accuracy": "min"}
        )
    page = text(reported(capsys, tmp_path)[1])
    assert "kd is better than alone: −0.0990" in page
    assert "Lower accuracy is better." in page


def test_runs_without_a_result_are_counted_and_left_out(five, capsys):
    (five / "stopped").mkdir()
    (five / "stopped" / "config.yaml").write_text("seed: 0\n")
    printed, _ = reported(capsys, five)
    assert "1 runs without a result.json are left out" in printed
    assert "seeds 1 to 5" in printed


def test_labels_name_the_first_key_that_differs_among_those_alike():
    described = [{"loss": "kd", "a": 1, "b": 1}, {"loss": "kd", "a": 1, "b": 2}, {"loss": "at", "a": 3, "b": 3}]
    assert distinguishing_labels(described) == ["kd b=1", "kd b=2", "at"]
    assert distinguishing_labels(described[:1]) == ["kd"]


def test_what_is_no_run_is_refused_in_one_line(tmp_path, capsys):
    assert "no such folder" in refused(capsys, tmp_path / "nowhere")
    assert "nothing to report" in refused(capsys, tmp_path)
    (tmp_path / "config.yaml").write_text("seed: 0\n")
    assert "resume=" in refused(capsys, tmp_path)
    (tmp_path / "result.json").write_text('{"version": 2}')
    assert "version 2" in refused(capsys, tmp_path)
    (tmp_path / "result.json").write_text("{")
    assert str(tmp_path) in refused(capsys, tmp_path)


def test_the_written_pages_are_where_the_user_wants_them(five, tmp_path, capsys):
    file = tmp_path / "pages" / "five.html"
    assert main([str(five), "--html", str(file)]) == 0
    assert file.is_file()
    assert not (five / "report.html").exists()
    assert Path(capsys.readouterr().out.split("The page is ")[1].strip()) == file
