"""What is done to images on their way from a data set to a learner: augmentation in training, and standardisation."""

from collections.abc import Sequence

import torch
from torch import Tensor

from plasticity.envs.datasets.augmentation import Augmentation, Draws


class Preparation:
    """Augments and standardises minibatches on their device.

    Args:
        augmentation: The random changes of training examples.
        mean: Subtracted from each channel of images in [0, 1]; empty for no standardisation.
        std: What each channel is then divided by; as many as ``mean``.

    Raises:
        ValueError: If ``mean`` and ``std`` do not fit together.
    """

    def __init__(self, augmentation: Augmentation, mean: Sequence[float] = (), std: Sequence[float] = ()) -> None:
        if len(mean) != len(std) or any(value <= 0 for value in std):
            raise ValueError(f"pixel_mean and pixel_std must have the same length and pixel_std be positive, got {mean}, {std}")
        self.augmentation = augmentation
        self._mean, self._std = torch.tensor(list(mean)).view(-1, 1, 1), torch.tensor(list(std)).view(-1, 1, 1)
        # A tensor, since some devices multiply by the reciprocal of a number, which is rounded twice.
        self._white = torch.full((1, 1, 1), 255.0)
        self._standardises = len(mean) > 0
        self.active = augmentation.active or self._standardises

    def require_fit(self, shape: Sequence[int], dtype: torch.dtype) -> None:
        """Raises ValueError unless inputs of this shape and type can be prepared."""
        if self.active and len(shape) != 3:
            raise ValueError(f"augmentation and pixel_mean need images (C, H, W), and inputs have shape {tuple(shape)}")
        if self._standardises and len(self._mean) not in (1, shape[0]):
            raise ValueError(f"pixel_mean has {len(self._mean)} channels, and images have {shape[0]}")
        if self.augmentation.crop_padding and self.augmentation.crop_padding >= min(shape[1:]):
            raise ValueError(f"crop_padding={self.augmentation.crop_padding} must be less than the images' side, {shape[1:]}")

    def output_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """Returns the type of prepared inputs."""
        return torch.float32 if self._standardises else dtype

    def draw(self, count: int, generator: torch.Generator, device: torch.device) -> Draws:
        """Draws the augmentation of ``count`` images."""
        return self.augmentation.draw(count, generator).to(device)

    def training(self, images: Tensor, draws: Draws) -> Tensor:
        """Returns images (B, C, H, W) augmented and standardised.

        What a rotation brings in is 0 after standardisation, and black without.
        """
        images = self.standardise(images)
        if not self.augmentation.active:
            return images
        return self.augmentation.apply(images, draws, torch.zeros(images.shape[1], device=images.device))

    def evaluation(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Returns images standardised, and augmented only if a generator is given."""
        if generator is None or not self.augmentation.active:
            return self.standardise(images)
        return self.training(images, self.draw(len(images), generator, images.device))

    def standardise(self, images: Tensor) -> Tensor:
        """Returns (pixels in [0, 1] - mean) / std as float32, or the images as they are."""
        if not self._standardises:
            return images
        if self._mean.device != images.device:
            self._mean, self._std, self._white = (value.to(images.device) for value in (self._mean, self._std, self._white))
        values = images.to(torch.float32)
        if images.dtype == torch.uint8:
            values = values.div_(self._white)
        return values.sub(self._mean).div_(self._std)
