"""The report of a study: what its refits came to on test, then the search that led to them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from optuna.trial import TrialState
from rich.console import Console

from kdlab.errors import UsageError
from kdlab.reporting import search as chart
from kdlab.reporting.board import compared, provenance
from kdlab.reporting.page import charts, folded, page, preformatted, section, wide
from kdlab.reporting.runs import EPOCHS, Board, Group, Run, board_of, read_run
from kdlab.reporting.search import Landmark
from kdlab.reporting.seeds import Contrast, contrasts
from kdlab.reporting.sheet import Column, Sheet
from kdlab.reporting.trials import Search, number, short, titled
from kdlab.storage import stored

ROWS = {"teacher": "teacher", "alone": "student alone"}

MOST = 12
"""Rows of a table of trials."""


def of_study(folder: Path, console: Console, storage: str | None = None) -> str:
    """Prints what the refits and the search of a study came to; its page adds the charts.

    Args:
        folder: as `kdlab.study` describes it.
        storage: where its trials are, if study.yaml does not tell.

    Raises:
        UsageError: where the study cannot be read.
    """
    with stored(folder, storage) as studies:
        searches = [Search.of(study) for study in studies if "objectives" in study.user_attrs]
        if not searches:
            raise UsageError(f"{folder}: the study has not begun; python -m kdlab.sweep begins it")
        lead, sections = [], []
        final = _final(folder)
        if final is not None:
            board, rivals, keep = final
            found = compared(board, rivals, console, keep)
            lead += found.sentences
            sections.append(found.section)
        summary = _summary(searches)
        console.print(summary.to_rich())
        lead += [_counted(search) for search in searches] if len(searches) == 1 else []
        landmarks = _landmarks(board) if final else []
        sections.append(section("Searches" if len(searches) > 1 else "Best trials", summary.to_html(titled=False)))
        for search in searches:
            parts = _search(search, landmarks)
            sections += [folded(f"{search.arm}: {_counted(search)}", *parts)] if len(searches) > 1 else parts
        sections.append(folded("The study", preformatted((folder / "study.yaml").read_text())))
    runs = [run for group in board.groups for run in group.runs] if final else []
    return page(f"Study {folder.resolve().name}", lead, sections, provenance(runs) if runs else [])
