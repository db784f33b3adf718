"""What is refused before anything heavy is imported."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kdlab.core.errors import UsageError
from kdlab.data.check import SETTINGS, DataError, check, source_arguments

FOLDER = {"_target_": "kdlab.data.source.Folder", "classes": 2}
HUB = {"_target_": "kdlab.data.source.Hub", "name": "someone/something"}


def refusal(config: dict[str, Any]) -> str:
    with pytest.raises(DataError) as caught:
        check(config)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_data_error_is_a_mistake_in_what_the_user_gave() -> None:
    assert issubclass(DataError, UsageError)


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys, kdlab.data.check, kdlab.core.paths\n"
        "print([name for name in ('torch', 'numpy', 'datasets', 'sklearn', 'PIL') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_sources_import_their_libraries_only_when_they_read() -> None:
    code = (
        "import sys, kdlab.data.source, kdlab.data.dataset\n"
        "print([name for name in ('datasets', 'sklearn', 'pyarrow', 'hydra', 'lightning') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_a_good_folder_passes(folder: Callable[..., Path]) -> None:
    check(FOLDER | {"path": str(folder(cat=1, dog=1))})


def test_parts_of_a_good_folder_pass(folder: Callable[..., Path]) -> None:
    folder("train", cat=1, dog=1)
    check(FOLDER | {"path": str(folder("val", cat=1))})


def test_a_path_that_is_not_set_is_asked_for() -> None:
    assert "data.path is not set: type data.path=DIR" in refusal(FOLDER | {"path": None})


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    assert f"data.path={tmp_path}/nowhere does not exist" in refusal(FOLDER | {"path": f"{tmp_path}/nowhere"})


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "is a file" in refusal(FOLDER | {"path": str(tmp_path / "file")})


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    assert "holds no class folders" in refusal(FOLDER | {"path": str(tmp_path)})


def test_one_class_is_no_classification(folder: Callable[..., Path]) -> None:
    assert "only one class folder, cat" in refusal(FOLDER | {"path": str(folder(cat=3))})


def test_a_class_without_pictures_is_named(folder: Callable[..., Path]) -> None:
    path = folder(cat=1)
    (path / "dog").mkdir()
    (path / "dog" / "notes.txt").touch()
    assert f"{path}/dog holds no picture" in refusal(FOLDER | {"path": str(path)})


def test_hidden_folders_are_no_classes(folder: Callable[..., Path]) -> None:
    path = folder(cat=1, dog=1)
    (path / ".cache").mkdir()
    check(FOLDER | {"path": str(path)})


@pytest.mark.parametrize("classes", [3, None])
def test_the_number_of_classes_is_told(folder: Callable[..., Path], classes: int | None) -> None:
    config = FOLDER | {"path": str(folder(cat=1, dog=1)), "classes": classes}
    assert refusal(config).endswith("holds 2; type data.classes=2")


def test_parts_without_a_train_folder_are_refused(folder: Callable[..., Path]) -> None:
    assert "holds test but no train folder" in refusal(FOLDER | {"path": str(folder("test", cat=1, dog=1))})


def test_a_hub_copy_needs_parquet_files(tmp_path: Path) -> None:
    check(HUB | {"path": None})
    assert "holds no .parquet file" in refusal(HUB | {"path": str(tmp_path)})
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.parquet").touch()
    check(HUB | {"path": str(tmp_path)})


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"channels": 2}, "data.channels=2: expected 1"),
        ({"classes": 1}, "data.classes=1: expected 2 or more"),
        ({"resident": "maybe"}, "data.resident=maybe: expected auto, true or false"),
        ({"channels": 3, "mean": [0.5, 0.5]}, "data.mean=[0.5, 0.5]: expected one number, or one for each of 3"),
        ({"std": [0.0]}, "data.std=[0.0]: expected numbers above 0"),
        ({"augment": {"crop": -1}}, "data.augment.crop=-1: expected a whole number of pixels, 0 or more"),
        ({"augment": {"crop": 1.5}}, "data.augment.crop=1.5"),
        (
            {"augment": {"crop": 5}, "size": 9},
            "data.augment.crop=5 can blank more than half of a picture of data.size=9; expected 4 at most, 1 is usual",
        ),
        ({"views": {"strong": {"crop": 5}}, "size": 8}, "data.views.strong.crop=5 can blank more than half"),
        ({"augment": {"flip": "often"}}, "data.augment.flip=often: expected true or false"),
        ({"augment": {"rotation": 360}}, "data.augment.rotation=360: expected degrees, from 0 to 180"),
        ({"augment": {"translation": 4}}, "data.augment.translation=4: expected a share"),
        ({"augment": {"scaling": 2}}, "data.augment.scaling=2: expected null or [smallest, largest]"),
        ({"augment": {"scaling": [1.2, 0.8]}}, "data.augment.scaling=[1.2, 0.8]"),
        ({"augment": {"mixup": -0.1}}, "data.augment.mixup=-0.1: expected 0 (off) or more"),
        ({"augment": {"label_smoothing": 1}}, "data.augment.label_smoothing=1"),
        ({"augment": {"cropp": 4}}, "data.augment.cropp: there is no such key; did you mean crop?"),
        (
            {"augment": {"randaugment": {"operations": 2, "magnitude": 31}}},
            "data.augment.randaugment={'operations': 2,",
        ),
        (
            {"augment": {"randaugment": {"operations": 2}}},
            "data.augment.randaugment={'operations': 2}: expected null, or {",
        ),
        ({"views": {"strong": {"rotatoin": 9}}}, "data.views.strong.rotatoin: there is no such key"),
        ({"views": {"strong": 3}}, "data.views.strong=3: expected a group of keys"),
    ],
)
def test_wrong_settings_are_refused_with_key_and_value(config: dict[str, Any], message: str) -> None:
    assert refusal(config).startswith(message)


def test_a_config_is_shared_between_its_source_and_the_run() -> None:
    config = FOLDER | dict.fromkeys(SETTINGS) | {"path": "x", "size": 8, "channels": 3, "on_corrupt": "stop"}
    assert set(source_arguments(config)) == {"_target_", "path", "size", "channels", "on_corrupt"}
