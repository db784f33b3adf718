"""A student that starts from some of its teacher's layers.

Sanh et al. DistilBERT, a distilled version of BERT: smaller, faster, cheaper and lighter. 2019, section 3: every other
layer of the teacher.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from torch import nn

from kdlab.core.errors import UsageError

POSITIONS = re.compile(r"(position\w*|\bwpe)\.weight$")
"""What transformers calls a table with a row for each position: `position_embeddings`, `embed_positions`, `wpe`."""


def copy_layers(student: nn.Module, teacher: nn.Module, layers: Sequence[int]) -> None:
    """Gives a student the weights of its teacher: of these blocks, and of everything outside the blocks.

    A student of shorter texts takes the first rows of a table of positions.

    Args:
        student: its weights are overwritten.
        teacher: of the same architecture; it stays as it is.
        layers: for each of the student's blocks that of the teacher, from 0.

    Raises:
        UsageError: where the two have no such blocks, or other shapes.
    """
    (place, own), (other, given) = _blocks(student, "the student"), _blocks(teacher, "the teacher")
    if type(own[0]) is not type(given[0]):
        raise UsageError(
            f"from_teacher={list(layers)}: the student's blocks are {type(own[0]).__name__}, the teacher's "
            f"{type(given[0]).__name__}; expected networks of one architecture"
        )
    whole = all(type(layer) is int and 0 <= layer < len(given) for layer in layers)
    if len(layers) != len(own) or not whole:
        raise UsageError(
            f"from_teacher={list(layers)}: expected {len(own)} layers, one for each of the student's, from 0 to "
            f"{len(given) - 1}"
        )
    theirs, taken = teacher.state_dict(), {}
    for name, value in student.state_dict().items():
        source, inside = name, name.startswith(f"{place}.")
        if inside:
            block, _, rest = name.removeprefix(f"{place}.").partition(".")
            source = f"{other}.{layers[int(block)]}.{rest}"
        if source not in theirs:
            raise UsageError(f"from_teacher={list(layers)}: the teacher has no {source}, the student's {name}")
        taken[name] = theirs[source]
        if not inside and POSITIONS.search(name):
            taken[name] = taken[name][: len(value)]
        if taken[name].shape != value.shape:
            raise UsageError(
                f"from_teacher={list(layers)}: {name} is {list(value.shape)}, but the teacher's {source} is "
                f"{list(theirs[source].shape)}; expected the same shape"
            )
    student.load_state_dict(taken)


def _blocks(network: nn.Module, whose: str) -> tuple[str, nn.ModuleList]:
    """The longest list of modules of one class, the outermost of several, and its name."""
    lists = {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, nn.ModuleList)
        and len({type(block) for block in module}) == 1
        and next(module[0].children(), None) is not None
    }
    if not lists:
        raise UsageError(f"from_teacher: {whose}, {type(network).__name__}, has no list of blocks of one class")
    return max(lists.items(), key=lambda found: len(found[1]))
