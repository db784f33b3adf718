"""Hypothesis strategies for what a user, or a script gone wrong, may type."""

from __future__ import annotations

from functools import cache
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from kdlab.config.compose import compose, groups
from kdlab.config.ranges import leaves
from kdlab.study.schema import StudyConfig
from support.tiny_runs import TINY

ELSEWHERE = ("name", "allow", "runs", "resume", "generations", "logger")
"""First parts of keys that are tried elsewhere."""

LONG = 10**7
"""No number is longer or larger: those are tried elsewhere."""

ODD = (
    "null", "", "true", "0", "-1", "1", "2", "0.5", "1e-300", "1e300", "nan", "inf", "-inf", "[]", "{}", "[null]",
    "[[]]", "[{}]", "{a: 1}", "{_target_: os.system}", "{_target_: torch.nn.Identity}", "[1,2,3]", "[a,b]", "word",
    "???", "${seed}", "${nothing}", "${oc.env:HOME}", "../x", "/", "~", "'quoted'", '"', "'", "[", "}", "a,b", "a b",
    "1_000", "0x10", "007", "1e5", "-0.0", "$", "%s", "{0}", "é", "猫", "\\x1b", "\x1b[2J", "a\nb", "\t", "\u202e",
    "\x7f", "a=b", "=", "+", "a.b", "@", ":", "#", "!!python/object:os.system", "*a", "&a", "null null", "None",
    "epoch", "\ud800",
)  # fmt: skip
"""Values of every wrong kind."""


@cache
def shape() -> dict[str, Any]:
    """The composed config of a tiny run, by its dotted keys."""
    plain = compose([*TINY, "loss=[kd,at]", "loss.alpha=0.9", "loss.temperature=4"]).plain()
    plain.pop("names")
    found = dict(leaves(plain))
    found |= {key.rpartition(".")[0]: {} for key in found if "." in key}
    found |= dict.fromkeys(("loss.task_weight", "teacher.teacher", "teacher.phases", "trainer.max_steps"))
    return {key: value for key, value in found.items() if key.split(".")[0] not in ELSEWHERE}


def neighbours(value: Any) -> SearchStrategy[str]:
    """Values of the type that is there, some of them wrong."""
    if isinstance(value, bool):
        return st.sampled_from(["true", "false"])
    if isinstance(value, int):
        return st.integers(-2, 20).map(str) | st.sampled_from(["100", "1000", "10000"])
    if isinstance(value, float):
        return st.floats(width=32).map(str)
    if isinstance(value, list):
        return st.lists(st.floats(-2, 2, width=16).map(str), max_size=4).map(lambda entries: f"[{','.join(entries)}]")
    return st.sampled_from(ODD)


def values(default: Any) -> SearchStrategy[str]:
    """Anything that may follow `KEY=`."""
    nested = st.recursive(
        st.sampled_from(ODD),
        lambda inner: (
            st.lists(inner, max_size=3).map(lambda e: f"[{','.join(e)}]")
            | st.tuples(st.sampled_from(["a", "_target_", "epochs", "heads"]), inner).map(
                lambda e: f"{{{e[0]}: {e[1]}}}"
            )
        ),
        max_leaves=4,
    )
    return neighbours(default) | st.sampled_from(ODD) | nested | st.text(max_size=8)


@st.composite
def keys(draw: st.DrawFn) -> str:
    """`KEY=VALUE` of the config, or of a key that is not there."""
    every = shape()
    key = draw(st.sampled_from(sorted(every)))
    value = draw(values(every[key]))
    mark = draw(st.sampled_from(["", "", "", "", "", "+", "++", "~", "nope."]))
    return f"{mark}{key}={value}"


@st.composite
def options(draw: st.DrawFn) -> str:
    """`GROUP=OPTION`, for the run or for a teacher."""
    known = {group: names for group, names in groups().items() if group != "logger"}
    group = draw(st.sampled_from(sorted(known)))
    option = st.sampled_from(known[group])
    several = st.lists(option, min_size=1, max_size=3).map(lambda names: f"[{','.join(names)}]")
    where = draw(st.sampled_from(["", "", "", "", "teacher.", "teacher.teacher."])) if group != "data" else ""
    return f"{where}{group}={draw(option | option | several if group in ('loss', 'teacher', 'experiment') else option)}"


@st.composite
def phases(draw: st.DrawFn) -> str:
    """`phases=[...]`, each with a few keys, some of them wrong."""
    known = groups()
    kinds: dict[str, SearchStrategy[str]] = {
        "epochs": st.integers(-1, 5).map(str) | st.sampled_from(ODD),
        "heads": st.sampled_from(["[kd]", "[]", "null", "[at]", "kd"]) | st.sampled_from(ODD),
        "task_weight": st.sampled_from(["0", "1", "null", "-1"]) | st.sampled_from(ODD),
        "train": st.sampled_from(["all", "head", "body"]) | st.sampled_from(ODD),
        "prepare": st.sampled_from(["true", "false"]) | st.sampled_from(ODD),
        "mode": st.sampled_from(known["mode"]) | st.sampled_from(ODD),
        "optimizer": st.sampled_from([*known["optimizer"], "{lr: 0.1}", "{lr: -1}"]) | st.sampled_from(ODD),
        "scheduler": st.sampled_from(known["scheduler"]) | st.sampled_from(ODD),
        "nope": st.just("1"),
    }
    written = []
    for _ in range(draw(st.integers(1, 3))):
        chosen = draw(st.lists(st.sampled_from(list(kinds)), unique=True, max_size=3))
        given = {"epochs": "1"} | {name: draw(kinds[name]) for name in chosen}
        written.append("{" + ", ".join(f"{name}: {value}" for name, value in given.items()) + "}")
    return f"phases=[{', '.join(written)}]"


def one() -> SearchStrategy[str]:
    """One word of a command line."""
    return keys() | keys() | keys() | options() | options() | phases() | st.text(max_size=10)


def arguments() -> SearchStrategy[list[str]]:
    """One to three words after those of a tiny run."""
    return st.lists(one(), min_size=1, max_size=3).filter(lambda words: all(map(_tried_here, words)))


def _tried_here(word: str) -> bool:
    key = word.lstrip("+~").partition("=")[0].split(".")[0]
    return key not in ELSEWHERE and key != "-h" and not word.startswith("-")


@st.composite
def studies(draw: st.DrawFn) -> dict[str, Any]:
    """The YAML of a study, with a few of its keys wrong."""
    found: dict[str, Any] = {
        "name": "fuzzed",
        "overrides": list(TINY),
        "space": {"loss.temperature": {"low": 1.0, "high": 8.0}},
    }
    word, oddity = st.text(max_size=6), st.sampled_from(ODD)
    anything = st.recursive(
        st.none() | st.booleans() | st.integers(-3, LONG) | st.floats(width=32) | oddity | word,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(oddity | word, inner, max_size=3),
        max_leaves=5,
    )
    names = st.sampled_from(["low", "high", "log", "choices", "step", "nope"])
    key = st.sampled_from([*shape(), "model", "optimizer", "loss", "mode", "nope"]) | word
    options = st.lists(st.sampled_from(["kd", "all", "at", "resnet8", "x"]), max_size=3)
    metric = st.sampled_from(["validation.accuracy", "parameters", "test.accuracy", "x"]) | word
    direction = st.sampled_from(["maximize", "minimize", "x"])
    bound = st.sampled_from(["parameters <= 1", "x <= 1", "parameters < nan", ""])
    targets = ("optuna.samplers.RandomSampler", "optuna.pruners.MedianPruner", "os.system")
    component = st.sampled_from([{"_target_": target} for target in targets])
    special = {
        "space": st.dictionaries(key, st.dictionaries(names, anything, max_size=3) | anything, min_size=1, max_size=2),
        "compare": st.dictionaries(st.sampled_from(list(groups())), options | anything, max_size=2),
        "overrides": st.lists(one(), max_size=2).map(lambda words: [*TINY, *filter(_tried_here, words)]),
        "objectives": st.dictionaries(metric, direction | anything, max_size=2),
        "constraints": st.lists(bound | anything, max_size=2),
        "first": st.lists(st.dictionaries(key, anything, max_size=2), max_size=2),
        "sampler": component,
        "pruner": component | st.just({"_target_": "kdlab.study.pruner.DominatedPruner", "grace": -1}),
    }
    fields = st.sampled_from([*StudyConfig.model_fields, "nope"])
    for name in draw(st.lists(fields, unique=True, min_size=1, max_size=3)):
        if name not in ("name", "storage"):
            found[name] = draw(special.get(name, anything) | anything)
    return found


@st.composite
def study_overrides(draw: st.DrawFn) -> list[str]:
    """`KEY=VALUE` after the name of a study."""
    own = st.sampled_from(
        [*StudyConfig.model_fields, "budget.trials", "budget.x", "final.seeds", "final.same", "space.x"]
    )
    of_study = st.tuples(own, st.sampled_from(ODD) | st.text(max_size=8)).map("=".join)
    words = draw(st.lists(of_study | one(), max_size=2))
    return [word for word in words if _tried_here(word) and not word.startswith(("storage", "name"))]
