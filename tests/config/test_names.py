"""A name is a folder where it says, and one line."""

import pytest

from kdlab.config.compose import compose
from kdlab.config.ranges import expected
from kdlab.core.errors import UsageError


@pytest.mark.parametrize(
    "name",
    [
        "../../x",
        "/tmp/x",
        "a/b",
        "..",
        ".",
        "",
        ".hidden",
        "a\nb",
        "a\0b",
        "\x1b[2J",
        "a\u202eb",
        "\udcff",
        "ü" * 76,
        3,
    ],
)
def test_a_name_that_leaves_its_folder_or_its_line_is_refused(name):
    assert "a name that can be a folder's" in (expected("name", name) or "")


@pytest.mark.parametrize("name", ["kd", "[red]", "résnet 8 → 模型", "a..b", "x" * 150])
def test_any_other_name_is_taken(name):
    assert expected("name", name) is None


@pytest.mark.parametrize("name", ["../../x", "a/b"])
def test_a_run_stays_in_its_folder(name):
    with pytest.raises(UsageError, match=f"name={name}: expected a name that can be a folder's"):
        compose([f"name={name}"])
    assert compose(["name=mine"]).name == "mine"
