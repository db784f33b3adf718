"""Small texts of our own making, written in every kind of file that is read."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

GOOD = ("fine", "lovely", "clever", "playful")
BAD = ("dull", "clumsy", "boring", "lazy")
OTHER = ("the", "film", "actor", "scene", "is", "was", "a", "very", "playing", "played")


def reviews(count: int, seed: int = 0) -> dict[str, list[Any]]:
    """Sentences of 2 to 12 words with labels 0 and 1 in turn; each has one word that tells its label."""
    draw = random.Random(seed)
    texts, labels = [], []
    for place in range(count):
        words = [draw.choice(OTHER) for _ in range(draw.randint(1, 11))]
        words.insert(draw.randint(0, len(words)), draw.choice(GOOD if place % 2 else BAD))
        texts.append(" ".join(words))
        labels.append(place % 2)
    return {"text": texts, "label": labels}


def write(folder: Path, kind: str, **parts: Mapping[str, Sequence[Any]]) -> Path:
    """Writes the columns of each part into a file of its name, such as `train.csv`."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, columns in parts.items():
        file, rows = folder / f"{part}.{kind}", list(zip(*columns.values(), strict=True))
        if kind == "parquet":
            import datasets

            datasets.Dataset.from_dict({name: list(values) for name, values in columns.items()}).to_parquet(file)
        elif kind == "jsonl":
            file.write_text("".join(json.dumps(dict(zip(columns, row, strict=True))) + "\n" for row in rows))
        else:
            mark = {"csv": ",", "tsv": "\t"}[kind]
            file.write_text("".join(mark.join(map(str, row)) + "\n" for row in [tuple(columns), *rows]))
    return folder
