"""kdlab: what can the small network learn from the big one, and was it worth it?

    kdlab.distill(student, teacher, train, validation, loss=kdlab.KD(temperature=4))
    kdlab.load_student("runs/...")

Nothing heavy is imported before it is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdlab.api import distill
    from kdlab.core.knowledge import Context, Example, Fields, Knowledge, Lesson, Needs, Progress
    from kdlab.heads.feature.fitnet import FitNet
    from kdlab.heads.head import Head, ResponseHead
    from kdlab.heads.response.kd import KD
    from kdlab.modes.mode import Cast, Edge, Mode
    from kdlab.run.saved import load_student
    from kdlab.tasks.classification import Classification
    from kdlab.tasks.task import Task
    from kdlab.training.objective import Term

_HOMES = {
    "kdlab.heads.feature.fitnet": ("FitNet",),
    "kdlab.heads.head": ("Head", "ResponseHead"),
    "kdlab.heads.response.kd": ("KD",),
    "kdlab.core.knowledge": ("Context", "Example", "Fields", "Knowledge", "Lesson", "Needs", "Progress"),
    "kdlab.modes.mode": ("Cast", "Edge", "Mode"),
    "kdlab.api": ("distill",),
    "kdlab.training.objective": ("Term",),
    "kdlab.run.saved": ("load_student",),
    "kdlab.tasks.classification": ("Classification",),
    "kdlab.tasks.task": ("Task",),
}
_WHERE = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "KD", "Cast", "Classification", "Context", "Edge", "Example", "Fields", "FitNet", "Head", "Knowledge", "Lesson",
    "Mode", "Needs", "Progress", "ResponseHead", "Task", "Term", "distill", "load_student",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"kdlab has no {name}")
    return getattr(import_module(_WHERE[name]), name)
