import pytest
import torch

from plasticity.envs.datasets.augmentation import Augmentation, Draws, flip, rotate, shift_with_reflection, turns
from plasticity.envs.tasks.preparation import Preparation

NUMBERS = torch.arange(1, 10, dtype=torch.uint8).view(1, 1, 3, 3)  # 1 2 3 / 4 5 6 / 7 8 9


def rows(images: torch.Tensor) -> list[list[int]]:
    rows: list[list[int]] = images[0, 0].tolist()
    return rows


def test_flip_by_hand() -> None:
    both = torch.cat([NUMBERS, NUMBERS])
    flipped = flip(both, torch.tensor([True, False]))
    assert rows(flipped[:1]) == [[3, 2, 1], [6, 5, 4], [9, 8, 7]]
    assert rows(flipped[1:]) == rows(NUMBERS)


@pytest.mark.parametrize(
    ("down", "right", "expected"),
    [
        (0, 0, [[1, 2, 3], [4, 5, 6], [7, 8, 9]]),
        (1, 0, [[4, 5, 6], [7, 8, 9], [4, 5, 6]]),
        (-1, 0, [[4, 5, 6], [1, 2, 3], [4, 5, 6]]),
        (0, -2, [[3, 2, 1], [6, 5, 4], [9, 8, 7]]),
        (2, 1, [[8, 9, 8], [5, 6, 5], [2, 3, 2]]),
    ],
)
def test_shift_by_hand(down: int, right: int, expected: list[list[int]]) -> None:
    assert rows(shift_with_reflection(NUMBERS, torch.tensor([down]), torch.tensor([right]))) == expected


def test_shift_is_a_crop_of_the_padded_image() -> None:
    images = torch.rand(20, 3, 8, 8)
    padded = torch.nn.functional.pad(images, (4, 4, 4, 4), mode="reflect")
    draws = Augmentation(crop_padding=4).draw(20, torch.Generator().manual_seed(0))
    shifted = shift_with_reflection(images, draws.down, draws.right)
    for image in range(20):
        top, left = 4 + int(draws.down[image]), 4 + int(draws.right[image])
        assert torch.equal(shifted[image], padded[image, :, top : top + 8, left : left + 8])


def test_rotation_by_hand() -> None:
    fill = torch.zeros(1)
    assert rows(rotate(NUMBERS, turns(torch.tensor([0.0])), fill)) == rows(NUMBERS)
    assert rows(rotate(NUMBERS, turns(torch.tensor([90.0])), fill)) == [[3, 6, 9], [2, 5, 8], [1, 4, 7]]  # counter-clockwise
    assert rows(rotate(NUMBERS, turns(torch.tensor([180.0])), fill)) == [[9, 8, 7], [6, 5, 4], [3, 2, 1]]
    turned = rotate(NUMBERS, turns(torch.tensor([45.0])), torch.tensor([200.0]))
    # Corners come from sqrt(2) away along an axis, rounded to 1: the middles of the sides. Those come from the corners.
    assert rows(turned) == [[2, 3, 6], [1, 5, 9], [4, 7, 8]]
    wide = torch.ones(1, 1, 1, 5, dtype=torch.uint8)
    assert rotate(wide, turns(torch.tensor([90.0])), torch.tensor([7.0])).flatten().tolist() == [7, 7, 1, 7, 7]


def test_draws_have_the_published_distributions() -> None:
    augmentation = Augmentation(0.5, 4, 15.0)
    draws = augmentation.draw(20_000, torch.Generator().manual_seed(0))
    assert 0.48 < float(draws.flips.float().mean()) < 0.52
    for offsets in (draws.down, draws.right):
        assert (offsets + 4).bincount().div(20_000).sub(1 / 9).abs().max() < 0.01
        assert (offsets + 4).bincount().shape == (9,)
    angles = torch.atan2(draws.turns[:, 1], draws.turns[:, 0]).rad2deg()
    assert (float(angles.min()), float(angles.max())) == (pytest.approx(0, abs=0.01), pytest.approx(15, abs=0.01))
    assert 7.3 < float(angles.mean()) < 7.7


def test_turns_are_cosine_and_sine() -> None:
    found = turns(torch.tensor([0.0, 30.0, 60.0]))
    torch.testing.assert_close(found, torch.tensor([[1.0, 0.0], [0.75**0.5, 0.5], [0.5, 0.75**0.5]]))
    assert found.dtype == torch.float32


def test_what_is_off_changes_no_other_draw() -> None:
    both = Augmentation(0.5, 4, 15.0).draw(50, torch.Generator().manual_seed(1))
    alone = Augmentation(0.0, 4, 0.0).draw(50, torch.Generator().manual_seed(1))
    assert torch.equal(both.down, alone.down)
    assert not bool(alone.flips.any())
    assert torch.equal(alone.turns, torch.tensor([[1.0, 0.0]]).expand(50, 2))


def test_a_flip_comes_before_the_crop_and_the_crop_before_the_rotation() -> None:
    draws = Draws(torch.tensor([True]), torch.tensor([0]), torch.tensor([1]), turns(torch.tensor([90.0])))
    # 3 2 1 / 6 5 4 / 9 8 7, then 2 1 2 / 5 4 5 / 8 7 8, then a quarter counter-clockwise.
    changed = Augmentation(0.5, 1, 90.0).apply(NUMBERS, draws, torch.zeros(1))
    assert rows(changed) == [[2, 5, 8], [1, 4, 7], [2, 5, 8]]


def test_what_is_off_returns_the_images_themselves() -> None:
    draws = Draws(*(torch.zeros(1, dtype=torch.int64) for _ in range(4)))
    assert Augmentation().apply(NUMBERS, draws, torch.zeros(1)) is NUMBERS


def test_standardisation_by_hand() -> None:
    preparation = Preparation(Augmentation(), [0.5, 0.25], [0.5, 0.1])
    images = torch.tensor([255, 0], dtype=torch.uint8).view(1, 2, 1, 1)
    torch.testing.assert_close(preparation.evaluation(images).flatten(), torch.tensor([1.0, -2.5]))
    assert preparation.output_dtype(torch.uint8) == torch.float32
    assert images.flatten().tolist() == [255, 0]
    every = torch.arange(256, dtype=torch.uint8).view(-1, 1, 1, 1)
    exact = (every.double() / 255).float()  # each quotient rounded once, which a product with 1 / 255 is not
    assert torch.equal(Preparation(Augmentation(), [0.0], [1.0]).evaluation(every), exact)
    assert not torch.equal(every * torch.tensor(1 / 255), exact)
    half = torch.tensor([0.5, 0.5]).view(1, 2, 1, 1)
    torch.testing.assert_close(preparation.evaluation(half).flatten(), torch.tensor([0.0, 2.5]))
    assert half.flatten().tolist() == [0.5, 0.5]


def test_evaluation_is_augmented_only_on_request() -> None:
    preparation = Preparation(Augmentation(flip_probability=1.0))
    assert preparation.evaluation(NUMBERS) is NUMBERS
    assert rows(preparation.evaluation(NUMBERS, torch.Generator())) == [[3, 2, 1], [6, 5, 4], [9, 8, 7]]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Augmentation(flip_probability=1.1), "flip_probability must lie between 0 and 1"),
        (lambda: Augmentation(crop_padding=-1), "crop_padding must be at least 0"),
        (lambda: Preparation(Augmentation(), [0.5], []), "must have the same length"),
        (lambda: Preparation(Augmentation(), [0.5], [0.0]), "pixel_std be positive"),
        (lambda: Preparation(Augmentation(), [0.5] * 3, [1] * 3).require_fit((1, 8, 8), torch.uint8), "3 channels"),
        (lambda: Preparation(Augmentation(crop_padding=8)).require_fit((1, 8, 8), torch.uint8), "crop_padding=8 must be less"),
        (lambda: Preparation(Augmentation(0.5)).require_fit((20,), torch.float32), "need images"),
    ],
)
def test_impossible_settings_are_refused(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]
