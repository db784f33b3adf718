"""A whole run: its teacher and its student alone, from the store or trained now, then the student, then the result."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from kdlab.core.errors import UsageError
from kdlab.data.dataset import Data, load
from kdlab.networks.cost import cost
from kdlab.networks.weights import StateDict, hash_file
from kdlab.run.builder import Config, example_batch, make_teacher, rebuild, without_use
from kdlab.run.evaluation import predict, score, student_of
from kdlab.run.fit import Trained, fit
from kdlab.run.recipe import alone_run, key_of, recipe_of, teacher_run, teachers_of
from kdlab.run.result import VERSION as RESULT_VERSION
from kdlab.run.result import gap_closed, provenance, write_json
from kdlab.run.store import Entry, Store

FOLDER = "KDLAB_RUN"
"""The environment variable by which the processes of one run agree on its folder."""


@dataclass
class Outcome:
    """What came of a run."""

    folder: Path
    result: Config


@dataclass
class Setting:
    """What every network of a run shares: its data, the store, where it is written and whether it goes on."""

    data: Data
    store: Store
    folder: Path
    group: str
    resume: bool

    def obtain(self, config: Mapping[str, Any], job: str) -> Entry:
        """The network that a run trains: from the store, or trained now, its own teacher first."""
        config = without_use({**config, "name": f"{config['name']}-{job}", "keep": "last"})
        recipe = self.recipe(config)
        if self.store.find(recipe) is None:
            print(f"{job}: not in the store, so it is trained first", flush=True)

        def train() -> tuple[StateDict, Config]:
            teachers = self.teachers(config, f"{job}-teacher")
            trained = fit(
                config, self.data, self.folder / job, job=job, group=self.group, nested=True, resume=self.resume,
                teachers=weights_of(teachers),
            )  # fmt: skip
            assert trained is not None
            return trained.weights, trained.result

        return self.store.get(recipe, train)

    def teachers(self, config: Mapping[str, Any], job: str = "teacher") -> list[Entry | None]:
        """A run's teachers, trained now where they are not in the store; None for one with weights of its own."""
        several = teachers_of(config)
        jobs = [job] if len(several) == 1 else [f"{job}{place}" for place in range(len(several))]
        return [
            None if teacher.get("checkpoint") else self.obtain(teacher_run(config, teacher), name)
            for name, teacher in zip(jobs, several, strict=True)
        ]

    def chain(self, config: Mapping[str, Any]) -> list[Config]:
        """The links of a chain of teachers, from the first to the one before this run; empty where it has but one."""
        links: list[Config] = []
        while len(several := teachers_of(config)) == 1 and not several[0].get("checkpoint"):
            config = without_use({**teacher_run(config, several[0]), "keep": "last"})
            entry = self.store.find(self.recipe(config))
            assert entry is not None
            links.insert(0, {"seed": config["seed"], "key": entry.key, **entry.result})
        return links if len(links) > 1 else []

    def recipe(self, config: Mapping[str, Any]) -> Config:
        """A run's recipe, with the hash of every external file of weights in it."""
        return recipe_of(config, self.data.fingerprint, dict(_hashes(teachers_of(config))))


def run(
    config: Mapping[str, Any],
    *,
    data: Data | None = None,
    folder: Path | None = None,
    store: Store | None = None,
    resume: bool = False,
) -> Outcome | None:
    """Trains what a config describes, and whatever it waits for.

    Args:
        config: a composed run.
        data: its data, where `kdlab.data.dataset.load` was called before.
        folder: where it goes; None: a new one below `config["runs"]`.
        store: where its teacher and its student alone are; None: that of `$KDLAB_HOME`.
        resume: the folder holds a run that stopped; go on with it.

    Returns:
        The result, or None on ranks other than the first.

    Raises:
        UsageError: where the run cannot be.
    """
    config = without_use({**config, "name": config["name"] or name_of(config)})
    data = data or load(config["data"], config["allow"])
    folder = folder or new_folder(Path(config["runs"]), config["name"])
    os.environ[FOLDER] = str(folder.resolve())
    try:
        return _run(config, data, folder, store or Store(), resume)
    finally:
        del os.environ[FOLDER]


def _run(config: Config, data: Data, folder: Path, store: Store, resume: bool) -> Outcome | None:
    write_config(folder, config)
    setting = Setting(data, store, folder, config["logger"].get("group") or config["name"], resume)
    teachers = setting.teachers(config)
    alone = setting.obtain(alone_run(config), "alone") if config["alone"] and _distils(config) else None
    trained = fit(
        config, data, folder, job=config["names"]["mode"], group=setting.group, resume=resume,
        teachers=weights_of(teachers),
    )  # fmt: skip
    if trained is None:
        return None
    recipe = setting.recipe(config)
    setting.store.put(recipe, trained.weights, trained.result)
    if alone is None and _distils(config):
        alone = setting.store.find(setting.recipe(without_use(alone_run({**config, "keep": "last"}))))
    result = _result(config, data, trained, teachers, alone, key_of(recipe))
    result["chain"] = setting.chain(config)
    write_student(folder, config, data, trained)
    write_json(folder / "result.json", result)
    return Outcome(folder, result)


def write_config(folder: Path, config: Mapping[str, Any]) -> None:
    """`config.yaml`, whole or absent whenever the run is stopped; what is there already stays."""
    file, aside = folder / "config.yaml", folder / f"config.{os.getpid()}.writing"
    if not file.is_file():  # ranks write the same, one after another
        aside.write_text(yaml.safe_dump(config, sort_keys=False))
        aside.replace(file)


def load_student(folder: Path | str, allow: Sequence[str] = ()) -> nn.Module:
    """The student of a run, in eval mode, from its folder: `student.yaml` and `student.safetensors`.

    Args:
        folder: of a run, or any that holds the two files.
        allow: packages of your own, where the student's classes are from there.

    Raises:
        UsageError: where a class is not allowed, or the weights are not those that were written.
    """
    from safetensors.torch import load_file

    folder = Path(folder)
    described = yaml.safe_load((folder / "student.yaml").read_text())
    network = rebuild(described["network"], allow)
    if hash_file(folder / "student.safetensors") != described["weights_sha256"]:
        raise UsageError(f"{folder / 'student.safetensors'} is damaged: its weights are not those of student.yaml")
    network.load_state_dict(load_file(folder / "student.safetensors"))
    return network.eval()


def write_student(folder: Path, config: Mapping[str, Any], data: Data, trained: Trained) -> None:
    """`student.yaml`: what is needed to rebuild the student and to feed it, and nothing of the teacher."""
    described = {
        "network": trained.result["network"],
        "input": {key: config["data"][key] for key in ("channels", "size", "mean", "std")},
        "classes": list(data.classes),
        "weights": "student.safetensors",
        "weights_sha256": hash_file(folder / "student.safetensors"),
    }
    (folder / "student.yaml").write_text(yaml.safe_dump(described, sort_keys=False))


def name_of(config: Mapping[str, Any]) -> str:
    """`mobilenet-kd`, `mobilenet-supervised`: what a run is called where nobody named it."""
    names = config["names"]
    said = names["loss"] if _distils(without_use(config)) else ""
    mode = "" if names["mode"] == "offline" else names["mode"]
    return "-".join(part for part in (names["model"], said, mode, names["data"], f"seed{config['seed']}") if part)


def new_folder(runs: Path, name: str) -> Path:
    """A folder `DATE-NAME-ID` of this run's own, made now; its processes agree on it by the environment."""
    if given := os.environ.get(FOLDER):
        return Path(given)
    job = os.environ.get("SLURM_JOB_ID")
    launched = os.environ.get("TORCHELASTIC_RUN_ID")  # every rank of torchrun must come to the same name
    identity = f"{job}-{os.environ.get('SLURM_RESTART_COUNT', '0')}" if job else launched or secrets.token_hex(3)
    started = int(os.environ.get("SLURM_JOB_START_TIME", time.time()))
    folder = runs / f"{time.strftime('%Y%m%d', time.localtime(started))}-{name}-{identity}"
    folder.mkdir(parents=True, exist_ok=bool(job or launched))
    return folder


def weights_of(entries: Sequence[Entry | None]) -> list[StateDict | None]:
    """The weights of each entry."""
    return [None if entry is None else entry.weights() for entry in entries]


def _hashes(teachers: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    for teacher in teachers:
        if teacher.get("checkpoint"):
            yield teacher["checkpoint"], hash_file(Path(teacher["checkpoint"]))
        yield from _hashes(teachers_of(teacher))


def _distils(config: Mapping[str, Any]) -> bool:
    return bool(config["loss"]["heads"])


def _result(
    config: Config, data: Data, trained: Trained, teachers: Sequence[Entry | None], alone: Entry | None, key: str
) -> Config:
    task = trained.task
    rows: dict[str, Any] = {"teacher": None, "alone": None, "student": trained.result}
    loader = data.eval_loader("test", 256, device=trained.device)
    if trained.teacher is not None:
        rows["teacher"] = _teacher_row(config, trained, teachers)
    if alone is not None:
        network = rebuild(alone.result["network"], config["allow"])
        network.load_state_dict(alone.weights())
        costs = cost(network, example_batch(config["data"])["input"])
        said = score(task, *predict(student_of(network.to(trained.device)), loader), trained.teacher)
        rows["alone"] = {
            **alone.result,
            **costs,
            "test": {**alone.result["test"], "last": said},
        }
    return {
        "version": RESULT_VERSION,
        "status": "completed",
        "name": config["name"],
        "key": key,
        "n": 1,
        "seeds": {"run": config["seed"], "teachers": [teacher["seed"] for teacher in teachers_of(config)],
                  "split": config["data"]["split_seed"]},
        "names": config["names"],
        "primary": task.primary,
        "directions": dict(task.directions),
        "titles": dict(task.titles),
        **rows,
        "gap_closed": {
            which: gap_closed(rows, task.primary, which, task.directions[task.primary]) for which in ("last", "best")
        },
        "data": {"fingerprint": data.fingerprint, **{part: len(getattr(data.parts, part)) for part in
                 ("train", "validation", "test")}},
        **provenance(),
    }  # fmt: skip


def _teacher_row(config: Config, trained: Trained, entries: Sequence[Entry | None]) -> Config:
    """The figures of the teacher; of several, what they say together and what they cost in sum."""
    batch = example_batch(config["data"])
    rows = []
    for settings, entry in zip(teachers_of(config), entries, strict=True):
        teacher = make_teacher(config, settings, entry.weights() if entry else None, batch)
        state = teacher.network.state_dict().values()
        size = sum(value.numel() * value.element_size() for value in state)
        stored: Config = entry.result if entry else {"seconds": None, "samples_per_second": None, "bytes": size}
        rows.append({**stored, **cost(teacher.network, teacher.prepared(batch["input"]))})
    assert trained.teacher is not None
    said = {"last": score(trained.task, trained.teacher, trained.targets)}
    if len(rows) == 1:
        return {**rows[0], "test": {**rows[0].get("test", {}), **said}}
    sums = ("parameters", "multiply_accumulates", "latency_ms", "bytes")
    seconds = [row["seconds"] for row in rows]
    return {
        "test": said,
        **{key: sum(row[key] for row in rows) for key in sums},
        "seconds": None if None in seconds else sum(seconds),
        "samples_per_second": None,
    }
