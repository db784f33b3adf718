"""What is shown of a text neither steers a terminal nor holds a password."""

import sys

import pytest

from kdlab.core.errors import UsageError, one_line
from kdlab.core.printable import masked, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("résnet-ü 模型 ✓", "résnet-ü 模型 ✓"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("two\nlines\tand\rmore", "two lines and more"),
        ("ab\u202ecd\u2066", "ab\\u202ecd\\u2066"),
        ("name\udcff", "name\\udcff"),
        ("[/red]", "[/red]"),
    ],
)
def test_what_steers_a_terminal_is_written_out(text, shown):
    assert printable(text) == shown


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:s3cret@host/db",
        "storage=postgresql://me:s3cret@host/db",
        "postgresql://me:with@s3cret@host/db",
        "postgresql://me:s3cret/and:s3cret?s3cret@host:5432/db",
        "postgresql://:s3cret@/db",
        "postgresql://me:two words s3cret@host/db",
        "postgresql://me@host/db?password=s3cret",
        "postgresql://host/db?sslmode=require&pass%77ord=s3cret&x=1",
        "postgresql://host/db?sslpassword=s3cret",
        "postgresql://me:s3cret@host/db?passfile=s3cret",
    ],
)
def test_a_password_of_a_url_is_never_shown(url):
    assert "s3cret" not in masked(url)
    assert "host" in masked(url) or "/db" in masked(url)


@pytest.mark.parametrize("text", ["postgresql://me@host/db?sslmode=require", "model=resnet8", "me:you@home", "a/b?c=d"])
def test_what_holds_no_password_is_shown_as_it_is(text):
    assert masked(text) == text


def test_what_a_message_says_after_the_url_stays():
    said = "storage=postgresql://me:s3cret@host/db: no such user: me@host"
    assert masked(said) == "storage=postgresql://me:***@host/db: no such user: me@host"


def test_a_message_is_one_line_without_password_or_control_characters_and_not_endless(capsys):
    @one_line
    def command() -> int:
        raise UsageError(f"name={sys.maxunicode}\n\x1b[31m postgresql://me:s3cret@host " + "9" * 100_000)

    assert command() == 2
    said = capsys.readouterr().err
    assert said.startswith("kdlab: name=1114111 \\x1b[31m postgresql://me:***@host 99")
    assert said.count("\n") == 1
    assert len(said) < 3000
