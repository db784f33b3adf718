"""Whether a study of this name that has begun is the one that is to be resumed."""

from __future__ import annotations

from typing import Any

import optuna

from kdlab.core.errors import UsageError
from kdlab.core.printable import masked
from kdlab.study.spec import FREE, Plan
from kdlab.study.storage import Storage


def kept_settings(plan: Plan) -> dict[str, Any]:
    """The settings of a study as its storage and its study.yaml keep them: without a password."""
    settings = plan.settings
    return settings.replace(storage=settings.storage and masked(settings.storage)).model_dump(
        mode="json", by_alias=True
    )


def refuse_another(plan: Plan, storage: Storage) -> None:
    """Refuses a study that was started with other settings or other config files; under the lock.

    Raises:
        UsageError: naming the key or the file.
    """
    known = optuna.get_all_study_names(storage.optuna)
    for name in {plan.titled(arm) for arm in plan.arms} & set(known):
        attributes = optuna.load_study(study_name=name, storage=storage.optuna).user_attrs
        if (begun := attributes.get("plan")) is None:
            continue
        for key, value in kept_settings(plan).items():
            if key not in FREE and begun.get(key) != value:
                raise UsageError(
                    f"{key}: the study {plan.name} was started with another value, see "
                    f"{plan.folder / 'study.yaml'}; give this one another name, name=NAME"
                )
        ours = plan.configs()
        theirs = attributes.get("configs", ours)
        if changed := sorted(file for file, _ in theirs.items() ^ ours.items()):
            what = "is missing" if changed[0] not in ours else "is new" if changed[0] not in theirs else "changed"
            raise UsageError(
                f"--config-dir: {changed[0]} {what} since the study {plan.name} was started; give this one another "
                "name, name=NAME"
            )
