"""A name is a folder where it says, and one line."""

import pytest

from kdlab.config.compose import compose
from kdlab.config.names import check_folder_name, check_name
from kdlab.core.errors import UsageError
from kdlab.run.execute import new_folder


@pytest.mark.parametrize("name", ["", "a\nb", "a\0b", "\x1b[2J", "a\u202eb", "\udcff", "ü" * 76])
def test_a_name_that_is_not_one_line_is_refused(name):
    with pytest.raises(UsageError, match="expected a name on one line"):
        check_name(name)


@pytest.mark.parametrize("name", ["../../x", "/tmp/x", "a/b", "..", ".", ".hidden"])
def test_a_study_that_would_leave_its_folder_is_refused(name):
    with pytest.raises(UsageError, match="expected a name usable as a folder"):
        check_folder_name(name)


@pytest.mark.parametrize("name", ["kd", "[bold]", "résnet 8 → 模型", "a..b", "x" * 150])
def test_any_other_name_is_taken(name):
    check_folder_name(name)


@pytest.mark.parametrize("name", ["../../x", "..", "/tmp/x", "[/red]"])
def test_a_run_stays_in_its_folder_whatever_its_name(tmp_path, name):
    folder = new_folder(tmp_path / "runs", name)
    assert folder.resolve().parent == tmp_path / "runs"
    assert [place.name for place in tmp_path.iterdir()] == ["runs"]


def test_a_run_is_refused_a_name_that_is_not_one_line():
    assert compose(["name=mine"]).name == "mine"
    with pytest.raises(UsageError, match="expected a name on one line"):
        compose(['name="a\x1bb"'])
