"""YAML that cannot be read, or is a trap, is refused in a line and at once."""

import time

import pytest

from kdlab.config.plain_yaml import parse_yaml, read_yaml
from kdlab.core.errors import UsageError

BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"name: \xff\xfe", "not UTF-8 text, from byte 6 on"),
        (BOMB.encode(), "its aliases stand for more than 100000 values"),
        (b"a: &a [*a]", "nested too deeply"),
        (b"[" * 5000, "nested too deeply"),
        (b"[" * 60 + b"]" * 60, "nested too deeply"),
        (b"x: " + b"y" * 10_000_000, "larger than 1000000 bytes"),
        (b"budget: {trials: " + b"9" * 5000 + b"}", "not valid YAML"),
        (b"a: 2020-99-99", "not valid YAML"),
        (b"a: b: c", "not valid YAML"),
        (b"a: \0", "not valid YAML"),
    ],
)
def test_what_is_no_reasonable_yaml_is_refused_in_a_line(tmp_path, content, said):
    file = tmp_path / "study.yaml"
    file.write_bytes(content)
    began = time.monotonic()
    with pytest.raises(UsageError, match=said) as found:
        read_yaml(file)
    assert str(found.value).startswith(f"{file}: ")
    assert "\n" not in str(found.value)
    assert time.monotonic() - began < 5


def test_a_file_that_cannot_be_opened_is_refused_in_a_line(tmp_path):
    with pytest.raises(UsageError, match="Is a directory"):
        read_yaml(tmp_path)
    with pytest.raises(UsageError, match="No such file"):
        read_yaml(tmp_path / "none.yaml")


def test_aliases_as_people_write_them_are_read():
    assert parse_yaml("a: &x {lr: 0.1}\nb: *x\nc: {<<: *x, k: 1}", "here")["c"] == {"lr": 0.1, "k": 1}
