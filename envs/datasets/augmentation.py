"""Random changes of images: horizontal flip, crop from a reflected border, rotation; all on the images' device.

Draws are separate from their use: an epoch draws once for all its examples, so that any minibatch of it can be
made again without those before it, and no step waits for a generator. Draws, and the sines of angles, are made on the CPU; what
is left for the device is exact arithmetic or rounded alike everywhere, so that the same images come out on any device.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class Augmentation:
    """Which changes are made, in this order.

    Attributes:
        flip_probability: Chance of a horizontal flip.
        crop_padding: Pixels of the reflected border on each side from which an image of the same size is cropped.
        rotation_degrees: Largest counter-clockwise rotation; angles are uniform from 0 to it, on one side only.

    Raises:
        ValueError: If a setting lies outside its range.
    """

    flip_probability: float = 0.0
    crop_padding: int = 0
    rotation_degrees: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.flip_probability <= 1:
            raise ValueError(f"flip_probability must lie between 0 and 1, got {self.flip_probability!r}")
        if self.crop_padding < 0 or not 0 <= self.rotation_degrees <= 360:
            raise ValueError(
                f"crop_padding must be at least 0 and rotation_degrees between 0 and 360, got {self.crop_padding!r} and "
                f"{self.rotation_degrees!r}"
            )

    @property
    def active(self) -> bool:
        """Whether anything is changed at all."""
        return bool(self.flip_probability or self.crop_padding or self.rotation_degrees)

    def draw(self, count: int, generator: torch.Generator) -> "Draws":
        """Draws for ``count`` images from a CPU generator; what is off is drawn too, so that the other draws stay the same."""
        flips = torch.rand(count, generator=generator) < self.flip_probability
        offsets = torch.randint(2 * self.crop_padding + 1, (2, count), generator=generator) - self.crop_padding
        angles = torch.rand(count, generator=generator) * self.rotation_degrees
        return Draws(flips, offsets[0], offsets[1], turns(angles))

    def apply(self, images: Tensor, draws: "Draws", fill: Tensor) -> Tensor:
        """Returns the changed images (B, C, H, W); ``fill`` (C,) is what a rotation brings in from outside."""
        if self.flip_probability:
            images = flip(images, draws.flips)
        if self.crop_padding:
            images = shift_with_reflection(images, draws.down, draws.right)
        return rotate(images, draws.turns, fill) if self.rotation_degrees else images


class Draws(NamedTuple):
    """What was drawn for each of B images.

    Attributes:
        flips: (B,) bool.
        down: (B,) int64, rows by which the crop lies below the image's own place.
        right: (B,) int64, columns likewise.
        turns: (B, 2) cosine and sine of the angle of rotation.
    """

    flips: Tensor
    down: Tensor
    right: Tensor
    turns: Tensor

    def to(self, device: torch.device | str) -> Self:
        """Returns the same on a device."""
        return type(self)(*(values.to(device) for values in self))

    def rows(self, rows: slice) -> Self:
        """Returns what was drawn for some of the images."""
        return type(self)(*(values[rows] for values in self))


def flip(images: Tensor, flips: Tensor) -> Tensor:
    """Mirrors the images (B, C, H, W) for which ``flips`` (B,) is true, left to right."""
    return torch.where(flips.view(-1, 1, 1, 1), images.flip(3), images)


def shift_with_reflection(images: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Crops (B, C, H, W) at ``down`` and ``right`` (B,) pixels from its own place; beyond the edge the image is reflected.

    The edge itself is not repeated: row -1 is row 1, row H is row H - 2. Offsets are smaller than the image.
    """
    height, width = images.shape[2:]
    rows = _reflected(torch.arange(height, device=images.device) + down[:, None], height)
    columns = _reflected(torch.arange(width, device=images.device) + right[:, None], width)
    return _pick(images, rows[:, :, None].expand(-1, -1, width), columns[:, None, :].expand(-1, height, -1))


def turns(degrees: Tensor) -> Tensor:
    """Returns cosines and sines (B, 2) of angles (B,) in degrees, as float32."""
    radians = degrees.to(torch.float64) * (math.pi / 180)
    return torch.stack([radians.cos(), radians.sin()], 1).to(torch.float32)


def rotate(images: Tensor, turns: Tensor, fill: Tensor) -> Tensor:
    """Rotates (B, C, H, W) about its centre counter-clockwise, taking the nearest pixel; ``turns`` (B, 2) as made of angles.

    Pixels that come from outside are ``fill`` (C,), in the images' type.
    """
    height, width = images.shape[2:]
    cosine, sine = turns[:, 0].view(-1, 1, 1), turns[:, 1].view(-1, 1, 1)
    y = (torch.arange(height, device=images.device) - (height - 1) / 2).view(1, -1, 1)
    x = (torch.arange(width, device=images.device) - (width - 1) / 2).view(1, 1, -1)
    # Each pixel looks up where it came from, which is a rotation back; rows grow downwards.
    rows = (sine * x + cosine * y + (height - 1) / 2).round().long()
    columns = (cosine * x - sine * y + (width - 1) / 2).round().long()
    outside = (rows < 0) | (rows >= height) | (columns < 0) | (columns >= width)
    picked = _pick(images, rows.clamp(0, height - 1), columns.clamp(0, width - 1))
    return torch.where(outside.unsqueeze(1), fill.view(1, -1, 1, 1).to(images.dtype), picked)


def _reflected(index: Tensor, size: int) -> Tensor:
    index = index.abs()
    return torch.where(index >= size, 2 * (size - 1) - index, index)


def _pick(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Takes the pixel (rows, columns), each (B, H, W), of every channel."""
    batch, channels, height, width = images.shape
    flat = (rows * width + columns).view(batch, 1, -1).expand(-1, channels, -1)
    return images.flatten(2).gather(2, flat).view(batch, channels, height, width)
