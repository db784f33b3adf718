"""RandAugment, against Pillow one operation and one picture at a time, and against what it claims to draw."""

from __future__ import annotations

from math import radians, tan

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

from kdlab.data.augment import Augment
from kdlab.data.randaugment import OPERATIONS, RandAugment, apply

SIDES = [(32, 32), (9, 14)]
MAGNITUDES = [0, 1, 10, 22, 30]

# Cubuk et al. 2020, figure 1 (fourteen operations); ranges of torchvision, transforms/autoaugment.py, RandAugment: at
# bin m of 31, s = m / 30 and h, w the sides. What Pillow is told to do then.
PILLOW = {
    "identity": lambda image, s: image,
    "shear_x": lambda image, s: affine(image, 1, 0.3 * s, 0, 0, 1, 0),
    "shear_y": lambda image, s: affine(image, 1, 0, 0, 0.3 * s, 1, 0),
    "translate_x": lambda image, s: affine(image, 1, 0, -int(150 / 331 * image.width * s), 0, 1, 0),
    "translate_y": lambda image, s: affine(image, 1, 0, 0, 0, 1, -int(150 / 331 * image.height * s)),
    "rotate": lambda image, s: image.rotate(30 * s),
    "brightness": lambda image, s: ImageEnhance.Brightness(image).enhance(1 + 0.9 * s),
    "color": lambda image, s: ImageEnhance.Color(image).enhance(1 + 0.9 * s),
    "contrast": lambda image, s: ImageEnhance.Contrast(image).enhance(1 + 0.9 * s),
    "sharpness": lambda image, s: ImageEnhance.Sharpness(image).enhance(1 + 0.9 * s),
    "posterize": lambda image, s: ImageOps.posterize(image, 8 - round(4 * abs(s))),
    "solarize": lambda image, s: ImageOps.solarize(image, 255 - 255 * abs(s)),
    "autocontrast": lambda image, s: ImageOps.autocontrast(image),
    "equalize": lambda image, s: ImageOps.equalize(image),
}


def affine(image: Image.Image, *matrix: float) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.NEAREST)


def pictures(count: int, height: int, width: int, channels: int = 3) -> Tensor:
    """Noise on a slope, so that values are neither all as frequent nor spread over the whole range."""
    generator = torch.Generator().manual_seed(2)
    noise = torch.randint(0, 90, (count, channels, height, width), generator=generator)
    slope = torch.linspace(20, 120, width).long() + 10 * torch.arange(channels)[:, None, None]
    return (noise + slope).float()


def by_pillow(name: str, picture: Tensor, strength: float) -> Tensor:
    bytes_ = picture.to(torch.uint8).numpy()
    image = Image.fromarray(bytes_.transpose(1, 2, 0) if len(bytes_) == 3 else bytes_[0])
    result = np.asarray(PILLOW[name](image, strength))
    return torch.tensor(result.transpose(2, 0, 1) if len(bytes_) == 3 else result[None]).float()


def one(name: str, given: Tensor, strength: float) -> Tensor:
    place = torch.full((len(given),), list(OPERATIONS).index(name))
    return apply(given, place, torch.full((len(given),), strength))


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("sides", SIDES)
@pytest.mark.parametrize("name", PILLOW)
def test_an_operation_is_pillows(name: str, sides: tuple[int, int], sign: int) -> None:
    given = pictures(3, *sides)
    for magnitude in MAGNITUDES:
        strength = sign * magnitude / 30
        ours = one(name, given, strength)
        theirs = torch.stack([by_pillow(name, picture, strength) for picture in given])
        difference = (ours - theirs).abs()
        if name in ("shear_x", "shear_y", "rotate"):  # a pixel on the border of two may go either way
            assert (difference > 0).float().mean() < 0.01, magnitude
        else:
            assert difference.max() <= 1, magnitude
            assert (difference > 0).float().mean() < 0.03, magnitude


@pytest.mark.parametrize("name", PILLOW)
def test_grey_pictures_are_taken_too(name: str) -> None:
    given = pictures(2, 8, 8, channels=1)
    theirs = torch.stack([by_pillow(name, picture, 1 / 3) for picture in given])
    difference = (one(name, given, 1 / 3) - theirs).abs()
    assert (difference > 0).float().mean() < 0.02 or difference.max() <= 1


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("brightness", [0, 10, 200], [0, 13, 255]),  # 1.3 times
        ("solarize", [0, 169, 170, 255], [0, 169, 85, 0]),  # inverted from 170 on
        ("posterize", [0, 7, 129, 255], [0, 6, 128, 254]),  # 8 − round(4 / 3) = 7 bits
        ("autocontrast", [50, 100, 150], [0, 127, 255]),
    ],
)
def test_operations_of_magnitude_ten_by_hand(name: str, given: list[float], expected: list[float]) -> None:
    assert one(name, torch.tensor(given, dtype=torch.float)[None, None, None], 1 / 3).flatten().tolist() == expected


def test_magnitude_ten_moves_four_pixels_of_32_and_shears_by_a_tenth() -> None:
    dot = torch.zeros(1, 1, 32, 32)
    dot[0, 0, 10, 10] = 255
    assert one("translate_x", dot, 1 / 3).nonzero().tolist() == [[0, 0, 10, 14]]  # 150/331 · 32 / 3 = 4.8
    assert one("translate_y", dot, -1 / 3).nonzero().tolist() == [[0, 0, 6, 10]]
    assert one("shear_x", dot, 1 / 3).nonzero().tolist() == [[0, 0, 10, 9]]  # 10.5 · 0.1 to the left
    line = torch.zeros(1, 1, 33, 33)
    line[:, :, 16, :] = 255
    rows = one("rotate", line, 1 / 3)[0, 0, :, 32].nonzero().flatten().tolist()
    assert rows == [16 - round(16 * tan(radians(10)))]  # ten degrees, counter-clockwise


def test_every_operation_sign_and_strength_is_as_likely_as_any_other() -> None:
    count = 14_000
    seen = {"chosen": [], "strength": []}
    draws = Augment((0.0,), (1.0,), 4, randaugment={"operations": 2, "magnitude": None}).draw(
        0, torch.arange(count), torch.zeros(count, dtype=torch.long)
    )
    assert draws.shape == (count, 12 + 6)
    for place in (12, 15):
        seen["chosen"].append((draws[:, place] * 14).long())
        seen["strength"].append(draws[:, place + 2])
    counts = torch.stack([torch.bincount(chosen, minlength=14) for chosen in seen["chosen"]])
    assert (counts - 1000).abs().max() < 150, "five standard deviations"
    assert abs(torch.stack(seen["strength"]).mean().item() - 0.5) < 0.02


def test_a_fixed_magnitude_leaves_its_draw_unread_and_a_sign_flips_the_direction() -> None:
    dot = torch.zeros(2, 1, 32, 32)
    dot[:, 0, 10, 10] = 255
    place = (list(OPERATIONS).index("translate_x") + 0.5) / 14
    draws = torch.tensor([[place, 0.9, 0.1], [place, 0.1, 0.4]])
    moved = RandAugment(1, 10)(dot, draws)
    assert moved.nonzero()[:, 3].tolist() == [14, 6]
    assert RandAugment(1, None)(dot, draws).nonzero()[:, 3].tolist() == [11, 5]


def test_what_becomes_of_a_sample_depends_on_seed_index_and_view_alone() -> None:
    augment = Augment((0.0,), (1.0,), 4, crop=2, flip=True, randaugment={"operations": 2, "magnitude": 10})
    images, index, view = pictures(40, 8, 8).to(torch.uint8), torch.arange(40), torch.arange(40) % 3
    whole, _ = augment(images, index, augment.draw(5, index, view))
    some = torch.tensor([31, 2, 17])
    part, _ = augment(images[some], some, augment.draw(5, some, view[some]))
    assert torch.equal(part, whole[some])
    other, _ = augment(images[some], some, augment.draw(5, some, view[some] + 3))
    assert not torch.equal(part, other)
    assert augment.pure


def test_without_it_nothing_more_is_drawn() -> None:
    index = torch.arange(3)
    assert Augment((0.0,), (1.0,), 4, crop=2, flip=True).draw(0, index, index).shape == (3, 3)
    assert Augment((0.0,), (1.0,), 4).randaugment is None
