"""The options of model that read text, found by what their YAML reads, and batches for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from kdlab.config.compose import compose, conf_folder, groups
from kdlab.run.make_network import make_network

VOCABULARY, LENGTH = 100, 16
DATA = (f"+data.vocabulary={VOCABULARY}", f"+data.length={LENGTH}", "data.classes=3")
"""What data of text have, beside those of pictures."""


def reads(option: str) -> set[str]:
    """The keys of data that an option of model reads, `vocabulary`, also through the options that it begins with."""
    content = yaml.safe_load((conf_folder() / "model" / f"{option}.yaml").read_text())
    own = {value[7:-1] for value in content.values() if str(value).startswith("${data.")}
    bases = [next(iter(base.values())) if isinstance(base, dict) else base for base in content.get("defaults", ())]
    return own.union(*(reads(base) for base in bases if base != "_self_"))


TEXT = [option for option in groups()["model"] if "vocabulary" in reads(option)]
READY = [option for option in TEXT if not any(word in option for word in ("pretrained", "lora"))]
"""Those that need no folder."""
CLASSIFIERS = [option for option in READY if "classes" in reads(option)]
CAUSAL = [option for option in READY if "classes" not in reads(option)]
SMALL = [option for option in CLASSIFIERS if not option.startswith("bert_") or option == "bert_tiny"]
"""Of the classifiers one of each family."""


def network(option: str, *overrides: str) -> nn.Module:
    """A network of conf/model with the same random weights each time, in eval mode."""
    torch.manual_seed(0)
    return make_network(compose([f"model={option}", *DATA, *overrides]).model).eval()


def text(*lengths: int, padded: int | None = None) -> dict[str, Tensor]:
    """Random tokens of these lengths, padded on the right with token 0."""
    longest = padded or max(lengths)
    mask = (torch.arange(longest) < torch.tensor(lengths)[:, None]).long()
    tokens = torch.randint(1, VOCABULARY, (len(lengths), longest), generator=torch.Generator().manual_seed(0))
    return {"input_ids": tokens * mask, "attention_mask": mask}


class Described:
    """Data of which only the description is asked, when a student is written."""

    classes = ("a", "b", "c")

    def described(self, folder: Path) -> dict[str, Any]:
        """No input."""
        return {}
