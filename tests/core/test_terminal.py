"""No name is read as markup, and none steers the terminal, whatever console it is printed on."""

import io

import pytest
from rich.console import Console

from kdlab.core.terminal import PlainTable, say


@pytest.mark.parametrize("name", ["[/red]", "[bold]x[/bold]", ":smile:", "[link=file:///x]y"])
def test_a_name_in_brackets_is_shown_as_it_is(name):
    console = Console(file=io.StringIO(), width=100)
    table = PlainTable(name)
    table.add_column(name)
    table.add_row(name)
    console.print(table)
    say(console, name)
    assert console.file.getvalue().count(name) == 4


def test_no_control_character_reaches_the_terminal():
    console = Console(file=io.StringIO(), width=100)
    table = PlainTable("\x1b]0;a\x07")
    table.add_column("\u202eb")
    table.add_row("one\ntwo \x1b[2J")
    console.print(table)
    say(console, "\x1b[2J")
    written = console.file.getvalue()
    assert not {"\x1b", "\x07", "\u202e"} & set(written)
    assert {"one", "two \\x1b[2J"} <= {part.strip(" │") for part in written.splitlines()}
