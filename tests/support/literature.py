"""The networks of conf/model, as a run makes them for CIFAR-100."""

from pathlib import Path
from typing import Any

import torch
import yaml
from hydra.utils import get_class
from torch import Tensor, nn

from kdlab.networks.observer import find_taps
from kdlab.networks.teacher import Observed

CONF = Path(__file__).parents[2] / "conf"


def images(samples: int = 2, side: int = 32) -> Tensor:
    return torch.randn(samples, 3, side, side, generator=torch.Generator().manual_seed(0))


def config_of(name: str, **settings: Any) -> dict[str, Any]:
    """What conf/model/NAME.yaml says, at 100 classes and 3 channels."""
    return {**yaml.safe_load((CONF / "model" / f"{name}.yaml").read_text()), "classes": 100, "channels": 3, **settings}


def observed(name: str, side: int = 32, **settings: Any) -> Observed:
    """The network, untrained, in eval mode, with the taps that its YAML names."""
    config = config_of(name, **settings)
    kind, taps = get_class(config.pop("_target_")), config.pop("taps")
    torch.manual_seed(0)
    network: nn.Module = kind(**config).eval()
    return Observed(name, network, find_taps(network, images(side=side), taps))
