"""Reports as a user gets them: what is printed, and the page."""

import re

from kdlab.report import main

ALONE, TEACHER = (0.90, 0.91), (0.98, 0.97)
"""Test accuracies of the student alone and the teacher, (last epoch, best epoch)."""


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


def text(page):
    """What a page says, less its charts."""
    return " ".join(re.sub(r"<[^>]+>", " ", re.sub(r"<(svg|style).*?</\1>", " ", page, flags=re.S)).split())
