"""Tables that lie: refused in one line, or read; never a hang, never code, and bounded in memory."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pytest

from kdlab.data.check import DataError, check
from kdlab.data.source import Hub
from support.hostile_tables import (
    NUMBER,
    PICTURE,
    copy,
    encoded,
    features,
    png,
    repeated,
    rows,
    with_broken_footer,
    with_footer_of,
    with_python_type,
)

pytestmark = pytest.mark.timeout(60)
WHOLE = encoded(rows())
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "arrow"))


def hub(path: Path, on_corrupt: str = "stop") -> Hub:
    return Hub("someone/something", str(path), "img", "label", 8, 3, on_corrupt)


def cells(content: bytes | None = None, path: str | None = None) -> list[Any]:
    return [{"bytes": content, "path": path}] * 8


def refused(path: Path, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DataError) as caught:
        hub(path)
    message = str(caught.value)
    assert said in message
    assert message.isprintable()
    assert len(message) < 2500
    assert capsys.readouterr() == ("", "")


def labels(values: list[Any], kind: pa.DataType, about: dict[str, Any] | None = None) -> pa.Table:
    return rows(values, kind=kind, about=features(label=about) if about else None)


REFUSED: dict[str, tuple[pa.Table | bytes, str]] = {
    "half a file": (WHOLE[: len(WHOLE) // 2], "cannot be read: Parquet magic bytes not found"),
    "a file without its end": (WHOLE[:-9], "cannot be read"),
    "an empty file": (b"", "cannot be read"),
    "a footer of 2 GiB": (with_footer_of(2**31 - 1), "cannot be read"),
    "a footer of nothing": (with_footer_of(0), "cannot be read"),
    "labels of 2^40": (labels([0, 2**40] * 4, pa.int64()), "data.label=label: the label 1099511627776 has no name"),
    "labels below zero": (labels([0, -7] * 4, pa.int64()), "data.label=label: the label -7 has no name"),
    "labels of fractions": (
        labels([0.5, 1.0] * 4, pa.float64(), {"_type": "Value", "dtype": "float64"}),
        "expected a column of numbers or of names, found float",
    ),
    "labels in lists": (
        labels([[0], [1]] * 4, pa.list_(pa.int64()), {"_type": "List", "feature": NUMBER}),
        "cannot be read",  # its test part has other ones
    ),
    "labels in structures": (labels([{"x": 1}] * 8, pa.struct([("x", pa.int64())]), {"x": NUMBER}), "cannot be read"),
    "no rows": (rows([]), "cannot be read"),
    "fewer names than labels": (rows(about=features(["cat"])), "data.label=label: the label 1 has no name"),
    "no pictures": (rows(pictures=[None] * 8), "row 0 of train, column img cannot be decoded (it holds no picture"),
    "empty pictures": (rows(pictures=cells()), "row 0 of train, column img cannot be decoded (it holds no picture"),
    "paths of files elsewhere": (rows(pictures=cells(path="/etc/passwd")), "nor the path of one below data.path"),
    "paths of devices": (rows(pictures=cells(path="/dev/zero")), "nor the path of one below data.path"),
    "pictures that are texts": (
        pa.table({"img": ["/etc/passwd"] * 8, "label": [0, 1] * 4}).replace_schema_metadata(features()),
        "cannot be read",
    ),
    "pictures that are programs": (rows(pictures=cells(EPS)), "cannot be decoded (not a picture)"),
    "pictures of 144 million pixels": (rows(pictures=cells(png((12_000, 12_000), "1"))), "exceeds limit of"),
    "names of control characters": (rows(about=features(["a\x1b[2J\n", "b"])), r"'a\x1b[2J\n'; expected a text"),
    "names that are numbers": (rows(about=features([1, 2])), "the name of a class is '1'"),
    "names that are nothing": (rows(about=features(["", "b"])), "the name of a class is ''"),
    "names that are null": (rows(about=features([None, "b"])), "the name of a class is 'None'"),
    "names of a thousand letters": (rows(about=features(["a" * 1000, "b"])), "expected a text of 1 to 200"),
    "names twice": (rows(about=features(["a", "a"])), "label names are duplicated"),
    "a million names": (rows(about=features([f"{n}" for n in range(10**6)])), "bytes of metadata; expected 1048576"),
    "features of no kind": (rows(about=features(label={"_type": "Code"})), "Feature type 'Code' not found"),
    "features that are no JSON": (rows(about={b"huggingface": b"{"}), "cannot be read"),
    "features that are a list": (rows(about={b"huggingface": b"[1]"}), "has no pictures in this column"),
    "features that are a number": (rows(about={b"huggingface": b'{"info": {"features": 3}}'}), "cannot be read"),
    "10 000 columns": (
        rows(further={f"c{n}": pa.nulls(8, pa.int8()) for n in range(10_000)}, about={}),
        "has 10003 columns; expected 4096 at most",
    ),
    "three million rows in 50 kB": (rows([0]).take([0] * 3_000_000), "claims 3000000 rows in"),
    "other columns": (rows().rename_columns(["picture\n\x1b[2J", "label"]), r"picture\n\x1b[2J"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_a_table_should_not_hold_is_refused_in_one_line(
    what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, said = REFUSED[what]
    refused(copy(tmp_path, table), said, capsys)


@pytest.mark.parametrize("seed", range(20))
def test_a_broken_footer_is_refused_in_one_line_or_read(
    seed: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = "read"
    try:
        hub(copy(tmp_path, with_broken_footer(seed)))
    except DataError as error:
        said = str(error)
    assert said.isprintable()
    assert capsys.readouterr() == ("", "")


def test_one_picture_named_twenty_thousand_times_does_not_fill_the_memory(tmp_path: Path) -> None:
    path = copy(tmp_path, repeated(2**22, 20_000), dictionary_pagesize_limit=2**23)
    assert sum(file.stat().st_size for file in path.rglob("*.parquet")) < 5 * 2**20
    code = f"from kdlab.data.source import Hub; Hub('x', {str(path)!r}, 'img', 'label', 8, 3)"

    def little() -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (3 * 2**30, 3 * 2**30))

    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, preexec_fn=little, timeout=60,
        env={**os.environ, "HF_DATASETS_CACHE": str(tmp_path / "arrow")},
    )  # fmt: skip
    assert "DataError: data.path: " in done.stderr
    assert "bytes expands to more than 1073741824" in done.stderr
    assert not (tmp_path / "arrow").exists()


@pytest.mark.parametrize("names", [["<script>alert(1)</script>", "b"], ["%s", "{0}"], ["猫", "🐶"]])
def test_names_are_text_whatever_they_say(names: list[str], tmp_path: Path) -> None:
    assert hub(copy(tmp_path, rows(about=features(names)))).classes == tuple(names)


def test_an_extension_type_runs_no_code(tmp_path: Path) -> None:
    pwned = tmp_path / "pwned"
    data = hub(copy(tmp_path, with_python_type(pwned)))
    assert data.train.labels.tolist() == [0, 1] * 4
    assert not pwned.exists()


def test_pictures_below_the_folder_are_read_by_their_paths(tmp_path: Path) -> None:
    inside = tmp_path / "copy" / "pictures" / "one.png"
    path = copy(tmp_path, rows(pictures=cells(path=str(inside))))
    inside.parent.mkdir()
    inside.write_bytes(png())
    assert len(hub(path).train) == 8


def pipe(file: Path) -> None:
    os.mkfifo(file)


def device(file: Path) -> None:
    file.symlink_to("/dev/zero")


@pytest.mark.parametrize("make", [pipe, device, Path.mkdir, lambda file: file.symlink_to("nowhere")])
def test_what_is_no_file_is_not_read(make: Callable[[Path], None], tmp_path: Path) -> None:
    path = copy(tmp_path, rows())
    make(path / "data" / "train-00001-of-00001.parquet")
    with pytest.raises(DataError, match=r"train-00001-of-00001\.parquet is not a file but"):
        hub(path)
    with pytest.raises(DataError, match=r"is not a file but"):
        check({"_target_": "kdlab.data.source.Hub", "path": str(path)})


@pytest.mark.parametrize("name", ["/etc/*", "../secret/*", "http://127.0.0.1:9/a.parquet", "hf://datasets/a/b"])
def test_a_card_that_names_files_elsewhere_is_refused(name: str, tmp_path: Path) -> None:
    path = copy(tmp_path, rows())
    card = f"---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: '{name}'\n---\n"
    (path / "README.md").write_text(card)
    with pytest.raises(DataError, match=r"README\.md names .*, which is not in"):
        hub(path)


def test_a_card_of_its_own_files_is_read(tmp_path: Path) -> None:
    path = copy(tmp_path, rows())
    card = "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: 'data/train-*'\n---\n"
    (path / "README.md").write_text(card)
    assert len(hub(path).train) + len(hub(path).test or ()) == 8


def test_the_type_of_a_picture_is_that_of_the_library() -> None:
    assert datasets.Image().pa_type == PICTURE
