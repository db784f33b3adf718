"""A whole run: its teacher and its student alone, from the store or trained now, then the student, then the result."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from kdlab.assembly import Config, example_batch, make_teacher, rebuild, without_use
from kdlab.build import build
from kdlab.data.check import source_arguments
from kdlab.data.data import Data, prepare
from kdlab.data.table import Source
from kdlab.evaluation import cost, predict, score, student_of
from kdlab.fit import Trained, fit
from kdlab.recipe import alone_run, key_of, recipe_of, teacher_run
from kdlab.result import VERSION as RESULT_VERSION
from kdlab.result import gap_closed, provenance, write_json
from kdlab.store import Entry, State, Store, hash_file

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

        def train() -> tuple[State, Config]:
            teacher = self.teacher(config, f"{job}-teacher")
            trained = fit(
                config, self.data, self.folder / job, job=job, group=self.group, nested=True, resume=self.resume,
                teacher=teacher.weights() if teacher else None,
            )  # fmt: skip
            assert trained is not None
            return trained.weights, trained.result

        return self.store.get(recipe, train)

    def teacher(self, config: Mapping[str, Any], job: str = "teacher") -> Entry | None:
        """A run's teacher; None where it has none, or brings weights of its own."""
        if not config["teacher"] or config["teacher"].get("checkpoint"):
            return None
        return self.obtain(teacher_run(config), job)

    def recipe(self, config: Mapping[str, Any]) -> Config:
        """A run's recipe, with the hash of every external file of weights in it."""
        hashes: dict[str, str] = {}
        teacher = config["teacher"]
        while teacher:
            if teacher.get("checkpoint"):
                hashes[teacher["checkpoint"]] = hash_file(Path(teacher["checkpoint"]))
            teacher = teacher.get("teacher")
        return recipe_of(config, self.data.fingerprint, hashes)


def run(config: Mapping[str, Any], *, folder: Path | None = None, resume: bool = False) -> Outcome | None:
    """Trains what a config describes, and whatever it waits for.

    Args:
        config: a composed run.
        folder: where it goes; None: a new one below `config["runs"]`.
        resume: the folder holds a run that stopped; go on with it.

    Returns:
        The result, or None on ranks other than the first.

    Raises:
        UsageError: where the run cannot be.
    """
    config = without_use({**config, "name": config["name"] or name_of(config)})
    folder = folder or new_folder(Path(config["runs"]), config["name"])
    if not (folder / "config.yaml").is_file():
        (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    source = build(source_arguments(config["data"]), Source, "data", allow=config["allow"])
    data = prepare(source, config["data"])
    setting = Setting(data, Store(), folder, config["logger"].get("group") or config["name"], resume)
    teacher = setting.teacher(config)
    alone = setting.obtain(alone_run(config), "alone") if config["alone"] and _distils(config) else None
    trained = fit(
        config, data, folder, job=config["names"]["mode"], group=setting.group, resume=resume,
        teacher=teacher.weights() if teacher else None,
    )  # fmt: skip
    if trained is None:
        return None
    recipe = setting.recipe(config)
    setting.store.put(recipe, trained.weights, trained.result)
    if alone is None and _distils(config):
        alone = setting.store.find(setting.recipe(without_use(alone_run({**config, "keep": "last"}))))
    result = _result(config, data, trained, teacher, alone, key_of(recipe))
    write_student(folder, config, data, trained)
    write_json(folder / "result.json", result)
    return Outcome(folder, result)


def load_student(folder: Path | str) -> nn.Module:
    """The student of a run, in eval mode, from its folder: `student.yaml` and `student.safetensors`."""
    from safetensors.torch import load_file

    folder = Path(folder)
    described = yaml.safe_load((folder / "student.yaml").read_text())
    network = rebuild(described["network"], described["allow"])
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
        "allow": list(config["allow"]),
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
    identity = f"{job}-{os.environ.get('SLURM_RESTART_COUNT', '0')}" if job else secrets.token_hex(3)
    started = int(os.environ.get("SLURM_JOB_START_TIME", time.time()))
    folder = runs / f"{time.strftime('%Y%m%d', time.localtime(started))}-{name}-{identity}"
    folder.mkdir(parents=True, exist_ok=job is not None)
    os.environ[FOLDER] = str(folder.resolve())
    return folder


def _distils(config: Mapping[str, Any]) -> bool:
    return bool(config["loss"]["heads"])


def _result(
    config: Config, data: Data, trained: Trained, teacher: Entry | None, alone: Entry | None, key: str
) -> Config:
    task = trained.task
    rows: dict[str, Any] = {"teacher": None, "alone": None, "student": trained.result}
    loader = data.eval_loader("test", 256)
    if trained.teacher is not None:
        rows["teacher"] = _teacher_row(config, trained, teacher)
    if alone is not None:
        network = rebuild(alone.result["network"], config["allow"])
        network.load_state_dict(alone.weights())
        said = score(task, *predict(student_of(network), loader), trained.teacher)
        rows["alone"] = {
            **alone.result,
            **cost(network, example_batch(config["data"])["input"]),
            "test": {**alone.result["test"], "last": said},
        }
    return {
        "version": RESULT_VERSION,
        "status": "completed",
        "name": config["name"],
        "key": key,
        "n": 1,
        "seeds": {"run": config["seed"], "teacher": config["teacher"] and config["teacher"]["seed"],
                  "split": config["data"]["split_seed"]},
        "names": config["names"],
        "primary": task.primary,
        "directions": dict(task.directions),
        "titles": dict(task.titles),
        **rows,
        "gap_closed": {which: gap_closed(rows, task.primary, which) for which in ("last", "best")},
        "data": {"fingerprint": data.fingerprint, **{part: len(getattr(data.parts, part)) for part in
                 ("train", "validation", "test")}},
        **provenance(),
    }  # fmt: skip


def _teacher_row(config: Config, trained: Trained, entry: Entry | None) -> Config:
    batch = example_batch(config["data"])
    teacher = make_teacher(config, entry.weights() if entry else None, batch)
    measured = {
        **cost(teacher.network, teacher.prepared(batch["input"])),
        "bytes": sum(value.numel() * value.element_size() for value in teacher.network.state_dict().values()),
    }
    assert trained.teacher is not None
    stored: Config = entry.result if entry else {"seconds": None, "samples_per_second": None, "test": {}}
    test = {**stored["test"], "last": score(trained.task, trained.teacher, trained.targets)}
    return {**stored, **measured, "bytes": stored.get("bytes", measured["bytes"]), "test": test}
