"""Plain config becomes objects only where the object itself, not the spelling of its path, is allowed."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim import Optimizer

from kdlab.config.instantiate import build
from kdlab.core.errors import UsageError
from kdlab.heads.head import Head


@pytest.mark.parametrize(
    ("key", "target"),
    [
        ("model", "os.system"),
        ("model", "torch.os.system"),
        ("model", "torch.hub.load"),
        ("optimizer", "torch.optim.sgd.torch.hub.load"),
        ("model", "kdlab.run.store.os.system"),
        ("model", "kdlab.models.resnet.torch.hub.load"),
        ("model", "kdlab.heads.head.Head.__init__"),
        ("model", "kdlab.heads.response.kd.kd_loss"),
        ("loss.heads.kd", "kdlab.models.resnet.ResNet"),
        ("optimizer", "torch.optim.lr_scheduler.StepLR"),
        ("teacher.model", "subprocess.Popen"),
        ("model", "transformers.AutoModel.from_pretrained"),
    ],
)  # fmt: skip
def test_what_is_no_allowed_class_of_its_group_is_refused(key, target, monkeypatch):
    monkeypatch.setattr("os.system", lambda command: pytest.fail("it ran"))
    kind = {"model": nn.Module, "teacher.model": nn.Module, "optimizer": Optimizer}.get(key, Head)
    with pytest.raises(UsageError, match=rf"^{key}\._target_=") as refused:
        build({"_target_": target}, kind, key)
    assert target in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_users_own_package_is_allowed_by_name_and_not_by_prefix():
    with pytest.raises(UsageError, match=r"allow your own with allow=\[support\]"):
        build({"_target_": "support.toys.Net", "classes": 3}, nn.Module, "model")
    assert (
        build(
            {"_target_": "support.toys.Net", "classes": 3}, nn.Module, "model", allow=["support"]
        ).classifier.out_features
        == 3
    )
    with pytest.raises(UsageError, match="defined in"):
        build({"_target_": "support.toys.torch.nn.ReLU"}, nn.Module, "model", allow=["support"])


def test_a_nested_config_is_built_and_judged_too():
    for target in (
        "os.system",
        "transformers.dynamic_module_utils.get_class_from_dynamic_module",  # runs code from a folder or a hub
        "transformers.pipeline",
        "transformers.ViTImageProcessor",
    ):
        with pytest.raises(UsageError, match=rf"^model\.inner\._target_={target}"):
            build({"_target_": "kdlab.models.resnet.ResNet", "inner": {"_target_": target}}, nn.Module, "model")


def test_what_may_stand_within_a_network_is_a_network_its_settings_or_a_users_own_class():
    pytest.importorskip("transformers")
    config = {"_target_": "transformers.ViTConfig", "hidden_size": 12, "num_attention_heads": 2,
              "num_hidden_layers": 1, "image_size": 8, "patch_size": 4, "num_labels": 7}  # fmt: skip
    vit = {"_target_": "transformers.ViTForImageClassification", "config": config}
    both = {
        "_target_": "kdlab.models.ensemble.Ensemble",
        "networks": [vit, {"_target_": "support.toys.Net", "classes": 7}],
    }
    network = build(both, nn.Module, "model", allow=["support"])
    assert network.networks[0].config.hidden_size == 12
    assert network.networks[1].classifier.out_features == 7


def test_wrong_settings_are_one_line_that_names_the_class():
    with pytest.raises(UsageError, match=r"^model: kdlab.models.resnet.ResNet does not fit its settings:"):
        build({"_target_": "kdlab.models.resnet.ResNet", "depht": 20}, nn.Module, "model")


@pytest.mark.parametrize(("target", "advice"), [
    ("torchvision.models.resnet18", r"torchvision is not installed; pip install 'kdlab\[vision\]'"),
    ("timm.create_model", r"timm is not installed; pip install 'kdlab\[vision\]'"),
])  # fmt: skip
def test_a_missing_library_is_named_with_what_to_install(target, advice):
    try:
        __import__(target.split(".")[0])
    except ImportError:
        with pytest.raises(UsageError, match=advice):
            build({"_target_": target}, nn.Module, "model")
    else:
        assert isinstance(build({"_target_": target, **({"model_name": "resnet18"} if "timm" in target else {})},
                                nn.Module, "model"), nn.Module)  # fmt: skip


def test_optimizers_and_schedules_are_built_on_what_they_are_given():
    weight = nn.Parameter(torch.ones(1))
    optimizer = build({"_target_": "torch.optim.SGD", "lr": 0.5}, Optimizer, "optimizer", params=[weight])
    weight.grad = torch.ones(1)
    optimizer.step()
    assert weight.item() == 0.5


TIMM = """
import torch
from torch import nn

def create_model(model_name: str, checkpoint_path: str = "") -> nn.Module:
    network = nn.Linear(1, 1)
    network.load_state_dict(torch.load(checkpoint_path, map_location="cpu", weights_only=False))
    return network
"""


class Code:
    """Unpickled, it leaves a file."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.mark.skipif(importlib.util.find_spec("timm") is not None, reason="its stand-in would be hidden")
def test_weights_that_a_factory_reads_run_no_code(tmp_path, monkeypatch):
    """timm 1.0 reads `checkpoint_path`, and files of a hub, with `weights_only=False`."""
    (tmp_path / "timm.py").write_text(TIMM)
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "weights.pt"
    torch.save({"weight": Code(tmp_path / "pwned")}, file)
    described = {"_target_": "timm.create_model", "model_name": "x", "checkpoint_path": str(file)}
    try:
        with pytest.raises(UsageError, match="carries code"):
            build(described, nn.Module, "model")
        assert not (tmp_path / "pwned").exists()
        torch.save(nn.Linear(1, 1).state_dict(), file)
        assert isinstance(build(described, nn.Module, "model"), nn.Linear)
    finally:
        sys.modules.pop("timm", None)


def test_a_module_outside_the_allowed_packages_is_not_even_imported(tmp_path, monkeypatch):
    import optuna

    (tmp_path / "stranger.py").write_text(f"from pathlib import Path\nPath({str(tmp_path / 'pwned')!r}).touch()\n")
    monkeypatch.setattr(optuna, "__path__", [*optuna.__path__, str(tmp_path)])
    with pytest.raises(UsageError, match=r"^sampler\._target_=optuna\.stranger\.Sampler is not in an allowed package"):
        build({"_target_": "optuna.stranger.Sampler"}, optuna.samplers.BaseSampler, "sampler")
    assert not (tmp_path / "pwned").exists()
