"""A whole run: its teacher and its student alone (from the store or trained now), the student, the result."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from kdlab.config.schema import RunConfig
from kdlab.data.data import Data
from kdlab.data.dataset import load
from kdlab.networks.weights import StateDict
from kdlab.run.builder import Made, trained
from kdlab.run.derive import alone_run, teacher_run
from kdlab.run.fit import Trained, fit
from kdlab.run.folder import FOLDER, named, new_folder, write_config
from kdlab.run.make_network import make_network
from kdlab.run.recipe import Recipe, given_weights, key_of, recipe_of
from kdlab.run.result import VERSION as RESULT_VERSION
from kdlab.run.result import gap_closed, provenance, write_json
from kdlab.run.resume import last_good
from kdlab.run.saved import write_student
from kdlab.run.store import Entry, Store

ALONE = "alone"

Row = dict[str, Any]


@dataclass
class Outcome:
    """The folder and the result of a run."""

    folder: Path
    result: dict[str, Any]


@dataclass
class Resources:
    """What all networks of a run share: data, store, folder, W&B group, and whether they resume."""

    data: Data
    store: Store
    folder: Path
    group: str
    resume: bool = False

    def obtain(self, config: RunConfig, job: str) -> Entry:
        """The network that a run trains: from the store, or trained now, after its own teacher."""
        config = config.replace(name=f"{config.name}-{job}", keep="last")
        recipe = self.recipe(config)

        def train() -> tuple[StateDict, Row]:
            print(f"{job}: not in the store, training it first", flush=True)
            made = self.networks(config, self.teachers(config, f"{job}-teacher"))
            found = fit(
                config, self.data, self.folder / job, job=job, group=self.group, one_device=True,
                recipe=recipe, resume=self.resume, teachers=made,
            )  # fmt: skip
            assert found is not None
            return found.weights, found.result

        return self.store.get(recipe, train, {"data": config.names.data})

    def teachers(self, config: RunConfig, job: str = "teacher") -> list[Entry | None]:
        """A run's teachers, trained now if not in the store; None for one with a checkpoint."""
        several = config.teachers
        jobs = [job] if len(several) == 1 else [f"{job}{place}" for place in range(len(several))]
        return [
            None if teacher.given else self.obtain(teacher_run(config, teacher), name)
            for name, teacher in zip(jobs, several, strict=True)
        ]

    def networks(self, config: RunConfig, entries: Sequence[Entry | None]) -> list[Made]:
        """The trained networks of a run's teachers, from their entries in the store."""
        return [trained(config, teacher, entry) for teacher, entry in zip(config.teachers, entries, strict=True)]

    def chain(self, config: RunConfig) -> list[Row]:
        """A chain of teachers, from the first to the one before this run; empty where there is only one."""
        links: list[Row] = []
        while len(several := config.teachers) == 1 and not several[0].given:
            config = teacher_run(config, several[0])
            if (entry := self.store.find(self.recipe(config))) is None:  # removed since its student was stored
                break
            links.insert(0, {"seed": config.seed, "key": entry.key, **entry.result})
        return links if len(links) > 1 else []

    def recipe(self, config: RunConfig) -> Recipe:
        """A run's recipe, with the hash of every external file of weights in it."""
        return recipe_of(config, self.data.fingerprint, dict(given_weights(config)))


def run(
    config: RunConfig,
    *,
    data: Data | None = None,
    folder: Path | None = None,
    store: Store | None = None,
    resume: bool = False,
) -> Outcome | None:
    """Trains what a config describes, and first what that needs.

    Args:
        config: a run, without what its mode does not use.
        data: its data, if already loaded by `kdlab.data.dataset.load`.
        folder: of the run; None: a new one below `config.runs`.
        store: of its teacher and its student alone; None: that of `$KDLAB_HOME`.
        resume: continue the stopped run in the folder.

    Returns:
        The result, or None on ranks other than the first.

    Raises:
        UsageError: where the run is impossible.
    """
    config = named(config)
    data = data or load(config.data.plain(), config.allow)
    folder = folder or new_folder(config)
    os.environ[FOLDER] = str(folder.resolve())
    try:
        return _run(config, data, folder, store or Store(), resume)
    finally:
        del os.environ[FOLDER]


def _run(config: RunConfig, data: Data, folder: Path, store: Store, resume: bool) -> Outcome | None:
    write_config(folder, config)
    shared = Resources(data, store, folder, config.logger.group or config.name or "", resume)
    recipe = shared.recipe(config)
    if resume:  # a config that was changed is refused before anything is trained by it
        last_good(folder, recipe)
    teachers = shared.teachers(config)
    alone = shared.obtain(alone_run(config), "alone") if config.alone and config.distils else None
    if alone is None and config.distils:
        alone = store.find(shared.recipe(alone_run(config).replace(keep="last")))
    beside = {} if alone is None else {ALONE: _network(alone, config.allow)}
    found = fit(
        config, data, folder, job=config.names.mode, group=shared.group, recipe=recipe, resume=resume,
        teachers=shared.networks(config, teachers), beside=beside,
    )  # fmt: skip
    if found is None:
        return None
    store.put(recipe, found.weights, found.result, {"data": config.names.data})
    result = _result(config, data, found, teachers, alone, key_of(recipe))
    result["chain"] = shared.chain(config)
    write_student(folder, data, found.result["network"])
    write_json(folder / "result.json", result)
    return Outcome(folder, result)


def _result(
    config: RunConfig, data: Data, found: Trained, teachers: Sequence[Entry | None], alone: Entry | None, key: str
) -> Row:
    task = found.task
    rows: dict[str, Any] = {"teacher": None, "alone": None, "student": found.result}
    if found.teachers:
        rows["teacher"] = _teacher_row(found, teachers)
    if alone is not None:
        rows["alone"] = _alone_row(found, alone)
    return {
        "version": RESULT_VERSION,
        "status": "completed",
        "name": config.name,
        "key": key,
        "n": 1,
        "seeds": {"run": config.seed, "teachers": [teacher.seed for teacher in config.teachers],
                  "split": config.data.split_seed},
        "names": config.names.model_dump(),
        "primary": task.primary,
        "directions": dict(task.directions),
        "titles": dict(task.titles),
        **rows,
        "gap_closed": {
            which: gap_closed(rows, task.primary, which, task.directions[task.primary]) for which in ("last", "best")
        },
        "data": {"fingerprint": data.fingerprint, **data.sizes},
        **provenance(),
    }  # fmt: skip


def _network(entry: Entry, allow: Sequence[str]) -> nn.Module:
    network = make_network(entry.result["network"], allow=allow)
    network.load_state_dict(entry.weights())
    return network


def _alone_row(found: Trained, alone: Entry) -> Row:
    """The figures of the student alone, with its closeness to this run's teacher."""
    tested = found.measured.beside[ALONE]
    return {**alone.result, **tested, "test": {**alone.result["test"], "last": tested["test"]}}


def _teacher_row(found: Trained, entries: Sequence[Entry | None]) -> Row:
    """The figures of the teacher; for several, of their ensemble and their summed cost."""
    rows: list[Row] = []
    for teacher, costs, entry in zip(found.teachers, found.measured.teachers, entries, strict=True):
        state = teacher.network.state_dict().values()
        size = sum(value.numel() * value.element_size() for value in state)
        stored: Row = entry.result if entry else {"seconds": None, "samples_per_second": None, "bytes": size}
        rows.append({**stored, **costs})
    tested = {"last": found.measured.teacher or {}}
    if len(rows) == 1:
        return {**rows[0], "test": {**rows[0].get("test", {}), **tested}}
    sums = ("parameters", "multiply_accumulates", "latency_ms", "bytes")
    seconds = [row["seconds"] for row in rows]
    return {
        "test": tested,
        **{key: sum(row[key] for row in rows) for key in sums},
        "seconds": None if None in seconds else sum(seconds),
        "samples_per_second": None,
    }
