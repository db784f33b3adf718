"""Axes, scales and labels of charts."""

from xml.etree import ElementTree

import pytest

from kdlab.reporting.charts.labels import short_names
from kdlab.reporting.charts.scale import CategoricalScale, LinearScale, LogScale, format_tick, scale_from_values
from kdlab.reporting.charts.svg import LETTER, Axes


def test_parameters_are_called_by_what_tells_them_apart():
    assert short_names(["loss.temperature", "model.width"]) == {
        "loss.temperature": "temperature",
        "model.width": "width",
    }
    assert short_names(["teacher.lr", "optimizer.lr"]) == {"teacher.lr": "teacher.lr", "optimizer.lr": "optimizer.lr"}


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
    assert 0 < one.position(0.5) < 1


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
