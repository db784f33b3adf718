"""A run's data: what its config says and what its source has must agree."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from kdlab.config.ranges import AUGMENT, TEXT_AUGMENT
from kdlab.data.check import SETTINGS, DataError, check, source_arguments
from kdlab.data.corpus import Corpus
from kdlab.data.data import target_of
from kdlab.data.dataset import TableData, prepare
from kdlab.data.pictures import PictureSource
from kdlab.data.source import Digits
from kdlab.data.table import Table
from kdlab.data.text import Text
from kdlab.data.torch_dataset import TorchDataset
from support.composed import compose

CONF = Path(__file__).parents[2] / "conf" / "data"


def conf(name: str) -> dict[str, Any]:
    config = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    assert isinstance(config, dict)
    return config


@pytest.fixture(scope="module")
def digits() -> PictureSource:
    return Digits()


def changed(digits: PictureSource, **settings: Any) -> TableData:
    return prepare(digits, conf("digits") | settings)


@pytest.mark.parametrize("file", sorted(CONF.glob("*.yaml")), ids=lambda file: file.stem)
def test_every_config_has_all_settings_and_what_its_source_takes(file: Path) -> None:
    config = conf(file.stem)
    if "channels" in config:  # the networks by default are those of pictures
        config = compose([f"data={file.stem}"])["data"]
    source = target_of(config)
    augments: dict[Any, set[str]] = {Text: {*TEXT_AUGMENT}, Corpus: set(), TorchDataset: set()}
    without = {"mean", "std"} if source in augments else set()
    without |= {"augment", "resident"} if source is TorchDataset else set()
    assert set(SETTINGS) - without <= set(config)
    assert set(config.get("augment", ())) == augments.get(source, set(AUGMENT))
    given = {key: value for key, value in source_arguments(config).items() if key != "_target_"}
    inspect.signature(source).bind(**given)
    if file.stem in ("images", "text", "corpus"):
        with pytest.raises(DataError, match=r"type data\.path=DIR"):
            check(config)
    else:
        check(config)


def test_pictures_of_any_size_are_cropped_by_an_eighth_of_it() -> None:
    crops = [compose(["data=images", *size])["data"]["augment"]["crop"] for size in ([], ["data.size=64"])]
    assert crops == [28, 8]
    own = compose(["data=images", "data.size=64", "data.augment.crop=3"])
    assert own["data"]["augment"]["crop"] == 3


def test_digits_are_a_thousand_to_train_on_and_the_rest_held_out(digits: PictureSource) -> None:
    data = changed(digits)
    parts = data.parts
    assert (len(parts.train), len(parts.validation), len(parts.test)) == (1000, 400, 397)
    assert parts.validation.labels.bincount().min() >= 39
    assert torch.equal(data.labels, parts.train.labels)
    assert (len(data.classes), data.source.channels, data.source.size) == (10, 1, 8)


def test_the_digits_config_states_the_mean_and_deviation_of_its_training_part(digits: PictureSource) -> None:
    pixels = changed(digits).parts.train.inputs / 255
    config = conf("digits")
    assert [round(float(pixels.mean()), 4)] == config["mean"]
    assert [round(float(pixels.std()), 4)] == config["std"]


def test_training_batches_are_normalised(digits: PictureSource) -> None:
    inputs = torch.cat([batch["input"] for batch in changed(digits).train_loader(100, seed=0)])
    assert abs(float(inputs.mean())) < 1e-3
    assert abs(float(inputs.std()) - 1) < 1e-3


def test_training_is_augmented_and_evaluation_is_not(digits: PictureSource) -> None:
    augment = {"crop": 1, "rotation": 20.0, "label_smoothing": 0.1}
    plain, rich = changed(digits), changed(digits, augment=augment)
    for part in ("train", "validation", "test"):
        for one, other in zip(plain.eval_loader(part, 200), rich.eval_loader(part, 200), strict=True):
            assert torch.equal(one["input"], other["input"])
            assert other["target"].dtype == torch.int64
    ours, theirs = next(iter(plain.train_loader(50, 0))), next(iter(rich.train_loader(50, 0)))
    assert torch.equal(ours["index"], theirs["index"])
    assert not torch.allclose(ours["input"], theirs["input"], atol=0.1)
    assert theirs["target"].shape == (50, 10)


def test_views_are_changes_to_the_augmentation(digits: PictureSource) -> None:
    data = changed(digits, augment={"crop": 1}, views={"strong": {"rotation": 30}, "again": {}})
    assert (data.further["strong"].crop, data.further["strong"].rotation, data.further["again"].rotation) == (1, 30, 0)
    batch = next(iter(data.train_loader(50, 0, views=("strong",))))
    assert list(batch["views"]) == ["strong"]
    assert "views" not in next(iter(data.train_loader(50, 0)))
    with pytest.raises(DataError, match=r"data\.views has no weak; .* type \+data\.views\.weak=\{\}"):
        data.train_loader(50, 0, views=("weak",))


@pytest.mark.parametrize(("key", "value", "has"), [("classes", 100, 10), ("channels", 3, 1), ("size", 32, 8)])
def test_a_config_that_does_not_fit_its_source_is_refused(
    digits: PictureSource, key: str, value: int, has: int
) -> None:
    message = rf"data\.{key}={value}, but the data set has {has}; type data\.{key}={has}"
    with pytest.raises(DataError, match=message):
        changed(digits, **{key: value})


def test_wrong_settings_are_refused_without_a_command_line_too(digits: PictureSource) -> None:
    with pytest.raises(DataError, match=r"data\.augment\.cropp: there is no such key"):
        changed(digits, augment={"cropp": 1})


def test_no_validation_part_is_told_where_one_is_asked_for(digits: PictureSource) -> None:
    data = changed(digits, validation=0)
    assert len(data.parts.train) == 1400
    with pytest.raises(DataError, match=r"there is no validation part; type data\.validation=COUNT"):
        data.eval_loader("validation", 100)


@pytest.mark.parametrize("augment", [{"mixup": 0.2}, {"cutmix": 1.0}, {"label_smoothing": 0.1}])
def test_unlabelled_samples_cannot_have_shares_of_classes(augment: dict[str, float]) -> None:
    table = Table(torch.zeros(20, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1, -1, 1] * 5))
    source = PictureSource(table, None, None, ("a", "b"), 1, 8, "")
    config = conf("digits") | {"classes": 2, "validation": 0}
    assert prepare(source, config).labels.min() == -1
    with pytest.raises(DataError, match="need labels, and 5 training samples have none"):
        prepare(source, config | {"augment": augment})


@pytest.mark.parametrize("drop_last", [False, True])
def test_steps_are_counted_as_the_loader_gives_them(digits: PictureSource, drop_last: bool) -> None:
    data = changed(digits, drop_last=drop_last)
    for batch_size in (64, 192, 1000, 4096):
        for world in (1, 2, 4):
            for accumulate in (1, 3):
                loader = data.train_loader(batch_size - batch_size % world, 0, 0, world, accumulate=accumulate)
                assert data.steps_per_epoch(batch_size, world * accumulate) == len(loader)
    assert data.steps_per_epoch(64) == (15 if drop_last else 16)
    # 1000 = 15 · 64 + 40 = 5 · 192 + 40, and 40 divides over four ranks, but not over three parts.
    assert [data.left_out(64, shares) for shares in (1, 4, 3)] == ([0, 0, 0] if drop_last else [0, 0, 40])
    assert data.left_out(999) == (0 if drop_last else 1)


def test_whether_the_last_batch_is_left_out_is_true_or_false(digits: PictureSource) -> None:
    with pytest.raises(DataError, match=r"^data\.drop_last=never: expected true or false$"):
        changed(digits, drop_last="never")


def test_the_data_config_has_one_fingerprint_and_each_seed_of_its_split_another(digits: PictureSource) -> None:
    assert changed(digits).fingerprint == changed(digits, augment={"crop": 1}).fingerprint
    assert changed(digits).fingerprint != changed(digits, split_seed=1).fingerprint
