"""Augmentation, against one picture at a time and against the distributions it claims."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from kdlab.data.augment import Augment

NEUTRAL = {"mean": (0.0,), "std": (1.0,), "classes": 4}


def pictures(count: int, side: int = 6) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(1, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator)


def augmented(augment: Augment, images: Tensor, seed: int = 0) -> Tensor:
    index = torch.arange(len(images))
    draws = augment.draw(seed, index, torch.zeros_like(index))
    return augment(images, torch.zeros_like(index), draws)[0]


def chosen(augment: Augment, images: Tensor, **columns: float) -> Tensor:
    """What becomes of pictures whose random numbers are chosen: all one half, except for those named."""
    names = ["top", "left", "flip", "angle", "down", "right", "zoom"]
    draws = torch.full((len(images), len(names)), 0.5)
    for name, value in columns.items():
        draws[:, names.index(name)] = value
    return augment(images, torch.zeros(len(images), dtype=torch.long), draws)[0] * 255


def test_without_settings_a_picture_is_normalised_and_no_more() -> None:
    images = pictures(5)
    mean, std = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)
    expected = (images.numpy() / 255 - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))
    ours = augmented(Augment(mean, std, 4), images)
    assert ours.dtype == torch.float32
    assert np.abs(ours.numpy() - expected).max() < 1e-5


def test_crop_and_flip_are_those_of_one_picture_at_a_time() -> None:
    images, padding = pictures(200), 2
    augment = Augment((0.4, 0.5, 0.6), (0.2, 0.3, 0.4), 4, crop=padding, flip=True)
    index = torch.arange(200)
    draws = augment.draw(3, index, index)
    ours, _ = augment(images, index, draws)
    for image, numbers, result in zip(images.numpy(), draws.tolist(), ours.numpy(), strict=True):
        top, left = int(numbers[0] * 5), int(numbers[1] * 5)
        padded = np.pad(image, ((0, 0), (padding, padding), (padding, padding)))
        cut = padded[:, top : top + 6, left : left + 6]
        if numbers[2] < 0.5:
            cut = cut[:, :, ::-1]
        expected = (cut / 255 - np.reshape((0.4, 0.5, 0.6), (3, 1, 1))) / np.reshape((0.2, 0.3, 0.4), (3, 1, 1))
        assert np.abs(result - expected).max() < 1e-5


def test_padding_is_black_before_it_is_normalised() -> None:
    white = torch.full((50, 1, 4, 4), 255, dtype=torch.uint8)
    values = augmented(Augment((0.5,), (0.25,), 4, crop=2), white).unique()
    assert values.tolist() == [-2.0, 2.0], "(0 - 0.5) / 0.25 and (1 - 0.5) / 0.25"


def test_every_corner_and_both_mirror_images_are_equally_likely() -> None:
    count, padding = 32_400, 4
    picture = torch.arange(1, 10, dtype=torch.uint8).repeat(9, 1) + 10 * torch.arange(9, dtype=torch.uint8)[:, None]
    ours = augmented(Augment(**NEUTRAL, crop=padding, flip=True), picture.expand(count, 1, 9, 9)) * 255
    # The centre of the picture stays within it, whatever the corner: its value tells the corner.
    centre = ours[:, 0, 4, 4].round().long()
    row, column = centre // 10, centre % 10 - 1
    counts = torch.bincount(row * 9 + column, minlength=81).float()
    chi_square = float(((counts - 400) ** 2 / 400).sum())
    assert 40 < chi_square < 135, "80 degrees of freedom: beyond these, one in 4000 or fewer"
    inside = ours[:, 0, 4, 4:6]
    mirrored = ((inside[:, 1] < inside[:, 0]) & (inside[:, 1] > 0)).sum() / (inside[:, 1] > 0).sum()
    assert abs(float(mirrored) - 0.5) < 0.02


def test_what_becomes_of_a_sample_depends_on_seed_index_and_view_alone() -> None:
    augment = Augment(**NEUTRAL, crop=2, flip=True, rotation=20, translation=0.1, scaling=(0.8, 1.2))
    images, index, view = pictures(40), torch.arange(40), torch.arange(40) % 3
    whole, _ = augment(images, index, augment.draw(5, index, view))
    some = torch.tensor([31, 2, 17])
    part, _ = augment(images[some], some, augment.draw(5, some, view[some]))
    assert torch.allclose(part, whole[some], atol=1e-6)
    assert not torch.allclose(part, augment(images[some], some, augment.draw(6, some, view[some]))[0], atol=0.1)
    assert not torch.allclose(part, augment(images[some], some, augment.draw(5, some, view[some] + 3))[0], atol=0.1)


def test_switching_one_thing_on_leaves_the_others_as_they_were() -> None:
    index, view = torch.arange(20), torch.zeros(20, dtype=torch.long)
    plain = Augment(**NEUTRAL, crop=2, flip=True).draw(0, index, view)
    more = Augment(**NEUTRAL, crop=2, flip=True, rotation=10, mixup=0.2).draw(0, index, view)
    assert plain.shape == (20, 3)
    assert torch.equal(more[:, :3], plain)


def test_a_rotation_by_ninety_degrees_is_a_rotation_of_pixels() -> None:
    images = pictures(3)
    turned = chosen(Augment(**NEUTRAL, rotation=90), images, angle=1.0)
    back = chosen(Augment(**NEUTRAL, rotation=90), images, angle=0.0)
    assert torch.allclose(turned, torch.rot90(images, -1, (2, 3)).float(), atol=1e-2)
    assert torch.allclose(back, torch.rot90(images, 1, (2, 3)).float(), atol=1e-2)
    assert torch.allclose(chosen(Augment(**NEUTRAL, rotation=90), images), images.float(), atol=1e-2)


def test_a_rotation_does_not_shear_a_picture_that_is_no_square() -> None:
    wide = torch.zeros(1, 1, 5, 9, dtype=torch.uint8)
    wide[:, :, 2, :] = 255
    upright = chosen(Augment(**NEUTRAL, rotation=90), wide, angle=1.0)
    expected = torch.zeros(1, 1, 5, 9)
    expected[:, :, :, 4] = 255
    assert torch.allclose(upright, expected, atol=1e-2)


@pytest.mark.parametrize(("column", "axis"), [("down", 2), ("right", 3)])
def test_a_translation_moves_pixels_and_leaves_black(column: str, axis: int) -> None:
    images = pictures(3)
    moved = chosen(Augment(**NEUTRAL, translation=1 / 3), images, **{column: 1.0})
    expected = images.float().roll(2, axis)
    expected.narrow(axis, 0, 2).zero_()
    assert torch.allclose(moved, expected, atol=1e-2)


def test_a_scaling_of_two_enlarges_the_middle() -> None:
    images = pictures(3, side=8)
    enlarged = chosen(Augment(**NEUTRAL, scaling=(1.0, 2.0)), images, zoom=1.0)
    expected = interpolate(images[:, :, 1:7, 1:7].float(), scale_factor=2, mode="bilinear")[:, :, 2:-2, 2:-2]
    assert torch.allclose(enlarged, expected, atol=1e-2)
    assert torch.allclose(chosen(Augment(**NEUTRAL, scaling=(1.0, 2.0)), images, zoom=0.0), images.float(), atol=1e-2)


def test_only_what_mixes_samples_is_not_pure() -> None:
    assert Augment(**NEUTRAL, crop=4, flip=True, rotation=9, label_smoothing=0.1).pure
    assert not Augment(**NEUTRAL, mixup=0.2).pure
    assert not Augment(**NEUTRAL, cutmix=1.0).pure


def test_pictures_are_not_changed_in_place() -> None:
    images = pictures(4)
    before = images.clone()
    augmented(Augment(**NEUTRAL, crop=2, flip=True, rotation=9), images)
    augmented(Augment(**NEUTRAL), images)
    assert torch.equal(images, before)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_crops_and_flips_the_same() -> None:
    images, index = pictures(50), torch.arange(50)
    augment = Augment(**NEUTRAL, crop=2, flip=True)
    ours, _ = augment(images, index, augment.draw(0, index, index))
    augment, images, index = augment.cuda(), images.cuda(), index.cuda()
    theirs, _ = augment(images, index, augment.draw(0, index, index))
    assert torch.allclose(ours, theirs.cpu(), atol=1e-6)
