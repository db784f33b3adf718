"""What can be read of a damaged journal.

Operations name a study and a trial by its place among all that were created, so a lost creation would move the
results of all later trials to others. Nothing of the kind may happen: another creation takes the place of a lost one,
and a trial that was running when a line was lost is written no further. It stays unfinished, without a worker, and is
done again as those of a killed worker are.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from optuna.storages.journal._storage import JournalOperation as Do
from optuna.storages.journal._storage import JournalStorageReplayResult
from optuna.study import StudyDirection
from optuna.trial import TrialState

from kdlab.core.errors import UsageError

Operation = dict[str, Any]

NOTHING: Operation = {"op_code": int(Do.DISCARD_TRIALS)}
"""An operation that Optuna reads and passes over; it keeps the number of the lines."""

LOST = "lost"
"""The worker of operations that stand for lost ones: no process has this name."""

MOST = 1000
"""The most creations that are made up."""

ON_TRIALS = {Do.SET_TRIAL_PARAM, Do.SET_TRIAL_STATE_VALUES, Do.SET_TRIAL_INTERMEDIATE_VALUE, Do.SET_TRIAL_USER_ATTR,
             Do.SET_TRIAL_SYSTEM_ATTR}  # fmt: skip
ON_STUDIES = {Do.CREATE_TRIAL, Do.SET_STUDY_USER_ATTR, Do.SET_STUDY_SYSTEM_ATTR, Do.DELETE_STUDY}


@dataclass(frozen=True)
class Repaired:
    """A journal that Optuna reads. lost: lines; first: the number of the first, from 1; again: trials to do again."""

    content: bytes
    lost: int
    first: int
    again: int


@dataclass(frozen=True)
class Creation:
    """Of a study, or else of a trial, lost with the line at this place."""

    place: int
    study: int | None = None


def operation(line: bytes) -> Operation | None:
    """The operation of a line; None where it is damaged."""
    try:
        found = json.loads(line)
        return found if isinstance(found, dict) and Do(found["op_code"]) is not None else None
    except (ValueError, KeyError, RecursionError):
        return None


def is_damaged(content: bytes) -> bool:
    """Whether a whole line of a journal is no operation, or one that Optuna cannot apply."""
    replay = _Replay()
    return not all(replay.applies(operation(line)) for line in content.split(b"\n")[:-1])


def repaired(content: bytes) -> Repaired:
    """A damaged journal without its damage; a last line that was not finished is left out."""
    lines = content.split(b"\n")[:-1]
    given: list[Creation] = []
    while isinstance(found := _pass(lines, given), Creation):
        given.append(found)
        if len(given) > MOST:
            raise UsageError(f"more than {MOST} trials of the journal are lost; restore it from a backup")
    return found


def _pass(lines: list[bytes], given: list[Creation]) -> Repaired | Creation:
    """The journal with the creations that are given, or the first that is still missing."""
    replay, written, lost = _Replay(), list[bytes](), list[int]()
    suspect: set[int] = set()
    for place, line in enumerate(lines):
        found = operation(line)
        if lost and (missing := replay.missing(found, lost[-1])) and (missing.study is None or missing not in given):
            return missing
        trial = replay.trial(found)
        if trial is not None and lost and replay.waits(trial) and not _begins(found):
            suspect.add(trial)
        if trial in suspect or not replay.applies(found):
            written.append(json.dumps(NOTHING).encode().ljust(len(line)))  # so that a reader finds its place again
        else:
            written.append(line)
        if trial in suspect or written[-1] == line:
            continue
        lost.append(place)
        suspect |= replay.running()
        for creation in given:
            if creation.place == place:
                if creation.study is None:
                    suspect.add(replay.trials)
                made = replay.creation() if creation.study is None else _study(lines, creation.study)
                written.append(json.dumps(made).encode())
                replay.applies(made)
    for trial in sorted(suspect):
        free = {"op_code": int(Do.SET_TRIAL_USER_ATTR), "worker_id": LOST, "trial_id": trial}
        written.append(json.dumps({**free, "user_attr": {"worker": None}}).encode())
    content = b"".join(line + b"\n" for line in written)
    return Repaired(content, len(lost), lost[0] + 1 if lost else 0, len(suspect))


def _begins(found: Operation | None) -> bool:
    """Whether a worker begins a trial with this operation."""
    assert found is not None
    return found.get("state") == TrialState.RUNNING or "worker" in found.get("user_attr", {})


def _study(lines: list[bytes], number: int) -> Operation:
    """The creation of a study, from its attributes; the one without is that of the refits."""
    known: dict[Any, dict[str, Any]] = {number: {}}
    for line in lines:
        found = operation(line)
        if found is not None and found["op_code"] == Do.SET_STUDY_USER_ATTR:
            known.setdefault(found.get("study_id"), {}).update(found.get("user_attr", {}))
    try:
        about, refits = known[number], "plan" not in known[number]
        if refits:
            about = next(one for one in known.values() if "plan" in one and "curve" in one)
        objectives = dict(about["objectives"])
        ends = [objectives[about["curve"]]] if refits else list(objectives.values())
        option = "final" if refits else about["arm"]
        name = about["plan"]["name"] + (f"/{option}" if option else "")
    except (StopIteration, KeyError, TypeError, ValueError):
        name, ends = f"{LOST}/{number}", ["maximize"]
    directions = [int(StudyDirection[str(end).upper()]) for end in ends]
    return {"op_code": int(Do.CREATE_STUDY), "worker_id": LOST, "study_name": name, "directions": directions}


class _Replay:
    """Optuna's own reading of a journal, line by line."""

    def __init__(self) -> None:
        self._result = JournalStorageReplayResult(LOST)
        self._studies = self._study = 0

    @property
    def trials(self) -> int:
        """How many were created."""
        return len(self._result._trials)

    def running(self) -> set[int]:
        return {place for place, trial in self._result._trials.items() if trial.state == TrialState.RUNNING}

    def waits(self, trial: int) -> bool:
        known = self._result._trials.get(trial)
        return known is not None and known.state == TrialState.WAITING

    def trial(self, found: Operation | None) -> int | None:
        """The trial that an operation writes to."""
        if found is None or found["op_code"] not in ON_TRIALS or not isinstance(found.get("trial_id"), int):
            return None
        return int(found["trial_id"])

    def missing(self, found: Operation | None, place: int) -> Creation | None:
        """The creation without which an operation makes no sense."""
        if found is not None and found["op_code"] in ON_STUDIES and found.get("study_id") == self._studies:
            return Creation(place, self._studies)
        return Creation(place) if self.trial(found) == self.trials and self._studies else None

    def creation(self) -> Operation:
        """The creation of a trial in the study in which the last one was created."""
        now = datetime.now().astimezone().isoformat()
        return {"op_code": int(Do.CREATE_TRIAL), "worker_id": LOST, "study_id": self._study, "datetime_start": now,
                "state": int(TrialState.RUNNING)}  # fmt: skip

    def applies(self, found: Operation | None) -> bool:
        """Applies an operation; False where that cannot be done, or it names a study or trial that does not exist."""
        if found is None:
            return False
        code = found["op_code"]
        try:
            if code in ON_TRIALS and found["trial_id"] not in self._result._trials:
                return False
            if code in ON_STUDIES:
                self._result.get_study(found["study_id"])
            self._result.apply_logs([found])
        except Exception:  # whatever the content of a damaged line makes of it
            return False
        if code == Do.CREATE_TRIAL:
            self._study = found["study_id"]
        self._studies = self._result._next_study_id
        return True
