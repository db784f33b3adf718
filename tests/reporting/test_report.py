"""A report says what the runs came to, in the terminal and on a page that needs nothing else."""

import json
import os
import re
import shutil
import subprocess
import sys
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import jsonschema
import pytest
import yaml
from optuna.trial import TrialState

from kdlab.report import main
from kdlab.reporting.charts.labels import short_names
from kdlab.reporting.charts.scale import CategoricalScale, LinearScale, LogScale, format_tick, scale_from_values
from kdlab.reporting.charts.svg import LETTER, Axes
from kdlab.reporting.comparison_tables import compare_settings, compare_with_alone
from kdlab.reporting.runs import distinguishing_labels, read_run, result_sets
from kdlab.run.result import SCHEMA
from kdlab.study.results import SearchResults
from kdlab.study.storage import stored
from support.written_runs import WrittenStudy, write_final, write_run

ALONE, TEACHER = (0.90, 0.91), (0.98, 0.97)
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def reported(capsys, path, *flags):
    """What is printed, and the page."""
    assert main([str(path), *flags]) == 0
    return capsys.readouterr().out, (path / "report.html").read_text()


def refused(capsys, *arguments):
    """The one line that says why there is no report."""
    assert main(list(map(str, arguments))) == 2
    said = capsys.readouterr().err
    assert said.startswith("kdlab: ")
    assert said.count("\n") == 1
    return said


def groups(folder):
    (results,) = result_sets([read_run(run) for run in sorted(folder.iterdir())])
    return results


def text(page):
    """What a page says, less its charts."""
    return " ".join(re.sub(r"<[^>]+>", " ", re.sub(r"<(svg|style).*?</\1>", " ", page, flags=re.S)).split())


@pytest.fixture
def five(tmp_path):
    """Five seeds, each one test sample in a hundred better than the one before: by 1 to 5 % than the student alone."""
    for seed in range(1, 6):
        write_run(tmp_path / "runs" / f"run{seed}", seed, (0.90 + seed / 100, 0.92), ALONE, TEACHER)
    return tmp_path / "runs"


# ---- a run


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


# ---- a folder of runs


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


# ---- a study


@pytest.fixture
def study(tmp_path):
    """Six trials: the published, a cheap one, the best, one beaten, one pruned, one that breaks a constraint."""
    written = WrittenStudy(tmp_path / "kd")
    written.add(4.0, 0.2, [0.5, 0.8, 0.90])
    written.add(2.0, 0.1, [0.4, 0.6, 0.85])
    written.add(8.0, 0.2, [0.5, 0.8, 0.93])
    written.add(3.0, 0.2, [0.4, 0.7, 0.88])
    written.add(1.0, 0.2, [0.2], state=TrialState.PRUNED, reason="pruned after epoch 1 of 3")
    written.add(9.0, 0.1, [0.5, 0.8, 0.99], violation=0.5)
    written.add(5.0, 0.1, [], state=TrialState.FAIL, reason="<script>alert(1)</script>", retries=0)
    return tmp_path / "kd"


def search_of(folder):
    with stored(folder) as (found, *_):
        search = SearchResults.of(found)
        return search, search.trials, search.front


def test_the_front_leaves_out_beaten_pruned_and_infeasible_trials(study):
    search, trials, front = search_of(study)
    assert [trial.number for trial in front] == [1, 2]
    assert search.best.number == 2
    assert search.counts() == {"complete": 5, "pruned": 1, "failed": 1}
    assert search.value(trials[4]) == 0.2


def test_a_trial_that_was_tried_again_counts_once(tmp_path):
    written = WrittenStudy(tmp_path / "kd")
    written.add(5.0, 0.1, [], state=TrialState.FAIL, reason="killed")
    written.add(5.0, 0.1, [0.5, 0.6, 0.7], retry_of=0, retries=1)
    search, trials, _ = search_of(tmp_path / "kd")
    assert [trial.number for trial in trials] == [1]
    assert search.counts() == {"complete": 1}


def test_a_study_shows_front_history_importances_slices_coordinates_and_curves(study, capsys):
    printed, page = reported(capsys, study)
    assert "7 trials: 5 complete, 1 pruned, 1 failed." in printed
    assert "Best by validation accuracy: trial 2 with 0.9300, temperature 8, width 0.2." in " ".join(printed.split())
    for name in (
        "validation accuracy against student.multiply_accumulates", "history", "importances of the parameters",
        "validation accuracy against loss.temperature", "validation accuracy against model.width",
        "parallel coordinates", "learning curves",
    ):  # fmt: skip
        name = name.replace("student.multiply_accumulates", "multiply-accumulates")
        assert f'aria-label="{name}"' in page
    assert "the teacher and the student alone are not marked" in text(page)
    assert "pruned after epoch 1 of 3" in page


def test_refits_are_compared_on_test_and_marked_beside_the_front(study, capsys):
    # Differences best − default 0.01, 0.02, 0.03: mean 0.02, deviation 0.01; t(2) is 4.303, so −0.0048 to 0.0448.
    final = {
        "default": (None, {1: (0.90, 0.85), 2: (0.91, 0.86), 3: (0.92, 0.87)}),
        "best": ("default", {1: (0.91, 0.85), 2: (0.93, 0.86), 3: (0.95, 0.87)}),
    }
    write_final(study, final)
    printed, page = reported(capsys, study)
    words = " ".join(printed.split())
    assert "best does not differ significantly from default: +0.0200 on average over 3 seeds" in words
    assert "−0.0048 to +0.0448" in words
    assert "default is better than alone: +0.0500" in words
    chart = re.search(
        r'<svg[^>]*aria-label="validation accuracy against multiply-accumulates".*?</svg></figure>', page, re.S
    )[0]
    assert "student alone: 0.9000, 10,000" in chart
    assert "teacher: 0.9900, 500,000" in chart


def test_refits_that_did_not_come_to_their_end_are_named_also_where_none_did(study, capsys):
    (study / "final.json").write_text('{"settings": [], "missing": ["default", "best"]}')
    printed, page = reported(capsys, study)
    for name in ("default", "best"):
        assert f"{name}: left out, because not every seed finished" in printed
        assert f"{name}: left out, because not every seed finished" in text(page)


def test_options_that_are_compared_have_a_table_and_a_part_each(tmp_path, capsys):
    for arm in ("kd", "dkd"):
        written = WrittenStudy(tmp_path / "methods", arm)
        for width, accuracy in ((0.1, 0.8), (0.2, 0.9)):
            written.add(4.0, width, [accuracy / 2, accuracy])
    printed, page = reported(capsys, tmp_path / "methods")
    assert "Searches" in printed
    assert page.count("<summary>dkd: 2 trials") == page.count("<summary>kd: 2 trials") == 1


def test_a_study_with_one_objective_lists_its_best_trials(tmp_path, capsys):
    written = WrittenStudy(tmp_path / "one", cost=False)
    for temperature, accuracy in ((2.0, 0.8), (4.0, 0.9)):
        written.add(temperature, 0.1, [accuracy / 2, accuracy])
    page = text(reported(capsys, tmp_path / "one")[1])
    assert page.index("Best trials") < page.rindex("0.9000") < page.rindex("0.8000")


def test_a_study_without_trials_or_storage_is_refused_in_one_line(tmp_path, capsys):
    (tmp_path / "study.yaml").write_text(yaml.safe_dump({"name": "kd", "storage": None}))
    assert "gone" in refused(capsys, tmp_path)


def test_a_study_is_read_as_the_sweep_leaves_it(tmp_path, capsys):
    space = {"loss.temperature": {"low": 1.0, "high": 16.0, "log": True}}
    described = {"overrides": ["loss=kd"], "space": space, "budget": {"trials": 4}, "final": {"seeds": 0}}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(described))
    sweep = [sys.executable, str(Path(__file__).parents[1] / "support" / "analytic_study.py"), "mine.yaml"]
    environment = {**os.environ, "KDLAB_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"}
    subprocess.run(sweep, cwd=tmp_path, env=environment, check=True, capture_output=True, timeout=60)
    printed, page = reported(capsys, tmp_path / "runs" / "mine")
    assert "4 trials: 4 complete." in printed
    # The stand-in objective: 1 − 0.01 |T − 5| − 0.02 / 0.2, of which the published T 4 is 0.89.
    assert "trial 0: validation accuracy 0.8900, multiply-accumulates 2,000; temperature 4" in page


def test_parameters_are_called_by_what_tells_them_apart():
    assert short_names(["loss.temperature", "model.width"]) == {
        "loss.temperature": "temperature",
        "model.width": "width",
    }
    assert short_names(["teacher.lr", "optimizer.lr"]) == {"teacher.lr": "teacher.lr", "optimizer.lr": "optimizer.lr"}


# ---- the page


def test_the_page_needs_no_network_and_no_script(study, capsys):
    write_final(study, {"best": (None, {1: (0.9, 0.8)})})
    _, page = reported(capsys, study)

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attrs):
            assert tag not in ("script", "link", "img", "iframe", "object")
            assert not {"src", "href", "onload", "onclick"} & {name for name, _ in attrs}

    Reader().feed(page)
    assert "default-src 'none'" in page
    assert "url(" not in page
    assert "@import" not in page
    assert "http" not in page.replace("http-equiv", "")


def test_what_users_wrote_is_text_on_the_page(study, five, capsys):
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in reported(capsys, study)[1]
    shutil.copytree(five / "run1", five / "<b>&")
    page = reported(capsys, five)[1]
    assert "&lt;b&gt;&amp;" in page
    assert "<b>" not in page


def test_every_chart_is_well_formed(study, capsys):
    _, page = reported(capsys, study)
    charts = re.findall(r"<figure.*?</figure>", page, flags=re.S)
    assert len(charts) == 7
    for chart in charts:
        found = ElementTree.fromstring(chart)
        assert found.find(".//svg").get("aria-label")
        assert "nan" not in chart


def test_the_same_folder_gives_the_same_page(study, capsys):
    assert reported(capsys, study)[1] == reported(capsys, study)[1]


PROBE = """<iframe style="border:0; width:{width}px; height:900px" srcdoc="{page}"></iframe><script>
document.querySelector("iframe").onload = event => {{
  const page = event.target.contentDocument, count = what => page.querySelectorAll(what).length;
  const touching = [...page.querySelectorAll("svg")].flatMap(svg => {{
    const boxes = [...svg.querySelectorAll("text.label")].map(text => text.getBoundingClientRect());
    return boxes.flatMap((a, i) => boxes.slice(i + 1).filter(b =>
      a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 4 && b.top < a.bottom - 4));
  }});
  document.title = JSON.stringify({{
    wide: page.documentElement.scrollWidth, touching: touching.length, charts: count("svg[role=img]"),
    dots: count("circle"), paper: getComputedStyle(page.body).backgroundColor,
  }});
}};
</script>"""


def seen(page, folder, width, *flags):
    """What a browser makes of a page in a frame of this width."""
    file = folder / f"frame{width}.html"
    file.write_text(PROBE.format(width=width, page=escape(page)))
    said = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", f"--user-data-dir={folder / 'profile'}",
         "--window-size=1300,900", "--virtual-time-budget=2000", *flags, "--dump-dom", file.as_uri()],
        capture_output=True, text=True, timeout=60, check=True,
    ).stdout  # fmt: skip
    return json.loads(re.search(r"<title>(.*?)</title>", said)[1])


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_a_browser_shows_the_page_on_a_desktop_and_on_a_phone_light_and_dark(study, tmp_path, capsys):
    write_final(
        study,
        {"default": (None, {1: (0.90, 0.8), 2: (0.91, 0.8)}), "best": ("default", {1: (0.92, 0.8), 2: (0.94, 0.8)})},
    )
    _, page = reported(capsys, study)
    desktop = seen(page, tmp_path, 1200)
    phone = seen(page, tmp_path, 390, "--blink-settings=preferredColorScheme=0")
    assert desktop["wide"] <= 1200
    assert phone["wide"] <= 390
    assert desktop["touching"] == phone["touching"] == 0
    assert desktop["paper"] == "rgb(255, 255, 255)"
    assert phone["paper"] == "rgb(15, 19, 24)"
    assert desktop["charts"] == phone["charts"] == page.count('role="img"') == 12
    assert desktop["dots"] == page.count("<circle") > 20


# ---- charts


def test_axes_name_round_numbers():
    assert [words for _, words in LinearScale(0.0, 1.0).ticks()] == ["0.00", "0.25", "0.50", "0.75", "1.00"]
    assert [words for _, words in LinearScale(0.93, 0.99).ticks()] == ["0.94", "0.96", "0.98"]
    assert [words for _, words in LogScale(1.0, 16.0).ticks()] == ["1", "3", "10"]
    assert [words for _, words in LogScale(9000.0, 3e6).ticks()] == ["10k", "100k", "1M"]
    assert format_tick(-0.05, 0.05) == "−0.05"


def test_scales_place_ends_at_ends():
    assert [LogScale(1.0, 100.0).position(value) for value in (1, 10, 100)] == pytest.approx([0, 0.5, 1])
    assert [CategoricalScale(("a", "b")).position(value) for value in "ab"] == [0.25, 0.75]
    one = scale_from_values([0.5])
    assert 0 < one.place(0.5) < 1


def test_labels_of_one_point_do_not_touch():
    axes = Axes(LinearScale(0, 1), LinearScale(0, 1))
    for _ in range(6):
        axes.label(0.5, 0.5, "student alone")
    boxes = []
    for label in axes.overlay:
        found = ElementTree.fromstring(label)
        share = {"start": 0, "middle": 0.5, "end": 1}[found.get("text-anchor")]
        left = float(found.get("x")) - share * len("student alone") * LETTER
        boxes.append((left, float(found.get("y"))))
    for place, (left, up) in enumerate(boxes):
        for other, base in boxes[place + 1 :]:
            assert abs(left - other) >= len("student alone") * LETTER - 1 or abs(up - base) >= 13


def test_the_written_pages_are_where_the_user_wants_them(five, tmp_path, capsys):
    file = tmp_path / "pages" / "five.html"
    assert main([str(five), "--html", str(file)]) == 0
    assert file.is_file()
    assert not (five / "report.html").exists()
    assert Path(capsys.readouterr().out.split("The page is ")[1].strip()) == file
