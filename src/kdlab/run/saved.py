"""A student on disk: `student.safetensors` and `student.yaml`, without its teacher."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml
from torch import nn

from kdlab.config.schema import Component
from kdlab.config.yaml_file import read_yaml
from kdlab.core.errors import UsageError
from kdlab.core.files import write_text
from kdlab.data.data import Data
from kdlab.networks.weights import hash_file, load_weights
from kdlab.run.make_network import make_network


def write_student(folder: Path, data: Data, network: Component) -> None:
    """`student.yaml`: what is needed to rebuild the student, whose weights are already written, and its input."""
    described = {
        "network": dict(network),
        "input": data.described(folder),
        "classes": list(data.classes),
        "weights": "student.safetensors",
        "weights_sha256": hash_file(folder / "student.safetensors"),
    }
    write_text(folder / "student.yaml", yaml.safe_dump(described, sort_keys=False))


def load_student(folder: Path | str, allow: Sequence[str] = ()) -> nn.Module:
    """The student of a run, in eval mode, from its folder: `student.yaml` and `student.safetensors`.

    Args:
        folder: of a run, or any that holds the two files.
        allow: your own packages that define the student's classes.

    Raises:
        UsageError: where a class is not allowed, or the weights are not those that were written.
    """
    folder = Path(folder)
    described = read_yaml(folder / "student.yaml")
    network = make_network(described["network"], allow=allow)
    if hash_file(folder / "student.safetensors") != described["weights_sha256"]:
        raise UsageError(f"{folder / 'student.safetensors'} is damaged: its weights are not those of student.yaml")
    network.load_state_dict(load_weights(folder / "student.safetensors"))
    return network.eval()
