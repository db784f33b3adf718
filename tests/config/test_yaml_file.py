"""A file of settings is plain data of a sensible size, or refused in a line that names it."""

import time

import pytest

from kdlab.config.compose import compose
from kdlab.config.yaml_file import read_yaml
from kdlab.core.errors import UsageError

GLOBAL = "# @package _global_\n"
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join(['*' + before] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
UNREADABLE = {
    "not UTF-8": (b"name: \xff\xfe\n", "UTF-8"),
    "NULs": (b"name: a\0b\n", "not valid YAML"),
    "aliases that stand for a billion values": (BOMB.encode(), "values at most"),
    "an alias of itself": (b"a: &a [*a]\nb: [*b]\n", "not valid YAML"),
    "deep lists": (b"a: " + b"[" * 2000 + b"]" * 2000, "nested 50 deep"),
    "10 MB": (b"a: " + b"x" * 10_000_000, "1 MB"),
    "a number of 5 000 digits": (b"seed: " + b"9" * 5000, "digits"),
    "a tag of Python": (b"name: !!python/object/apply:os.system ['touch pwned']\n", "not valid YAML"),
    "brackets that do not match": (b"a: [1, 2\nb: }\n", "not valid YAML"),
}


@pytest.mark.parametrize(("content", "said"), UNREADABLE.values(), ids=UNREADABLE)
def test_an_experiment_that_is_no_settings_is_refused_at_once_and_named(tmp_path, content, said):
    (tmp_path / "experiment").mkdir()
    file = tmp_path / "experiment" / "x.yaml"
    file.write_bytes(GLOBAL.encode() + content)
    started = time.process_time()
    with pytest.raises(UsageError) as refused:
        compose(["experiment=x"], [tmp_path])
    assert time.process_time() - started < 5
    assert str(file) in str(refused.value)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 1000


def test_an_experiment_that_is_a_folder_is_refused(tmp_path):
    (tmp_path / "experiment" / "x.yaml").mkdir(parents=True)
    with pytest.raises(UsageError, match=r"x\.yaml cannot be read: it is a folder"):
        compose(["experiment=x"], [tmp_path])


def test_aliases_that_repeat_a_little_are_read(tmp_path):
    file = tmp_path / "fine.yaml"
    file.write_text("a: &a {lr: 0.1}\nb: *a\nc: [*a, *a]\n")
    assert read_yaml(file) == {"a": {"lr": 0.1}, "b": {"lr": 0.1}, "c": [{"lr": 0.1}, {"lr": 0.1}]}


def test_an_alias_within_its_own_anchor_is_no_endless_count(tmp_path):
    file = tmp_path / "loop.yaml"
    file.write_text("a: &a [1, *a]\n")
    with pytest.raises(UsageError, match="within itself"):
        read_yaml(file)
