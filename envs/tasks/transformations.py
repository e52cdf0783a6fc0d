"""What makes one task of a data stream differ from the next.

A transformation is a function of the task's inputs (n, C, H, W), targets (n,), the number of classes and a private CPU
generator; it returns new tensors and leaves its arguments as they are. It is applied once per task, to the whole task.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Transformation = Callable[[Tensor, Tensor, int, torch.Generator], tuple[Tensor, Tensor]]


def unchanged(inputs: Tensor, targets: Tensor, classes: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Every task is the same problem."""
    return inputs, targets


def permuted_pixels(inputs: Tensor, targets: Tensor, classes: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Permutes all C x H x W input positions, in the same way for every example.

    Each task draws a fresh permutation of the original positions, the first task too. See Goodfellow et al. (2013), "An
    empirical investigation of catastrophic forgetting", and Dohare et al. (2024), "Loss of plasticity in deep continual
    learning", who permute the already permuted images, which has the same distribution.
    """
    flat = inputs.flatten(1)
    permutation = torch.randperm(flat.shape[1], generator=generator).to(inputs.device)
    return flat.index_select(1, permutation).view(inputs.shape), targets


def permuted_labels(inputs: Tensor, targets: Tensor, classes: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Renames the classes by a fresh permutation: examples of one class still share a label."""
    permutation = torch.randperm(classes, generator=generator).to(targets.device)
    return inputs, permutation[targets]


def random_labels(inputs: Tensor, targets: Tensor, classes: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Gives every example a label drawn uniformly from all classes, its own among them: only memorisation can learn the task.

    See Lyle et al. (2023), "Understanding plasticity in neural networks", and "Towards perpetually trainable neural networks",
    B.2: each input is assigned a new label uniformly at random, independent of its class.
    """
    labels = torch.randint(classes, tuple(targets.shape), generator=generator)
    return inputs, labels.to(targets.device)


# Those whose draws do not depend on the examples, so that they can be applied in the same way to others, such as a test set.
SHARED = ("none", "permuted_pixels", "permuted_labels")
TRANSFORMATIONS: dict[str, Transformation] = {
    "none": unchanged,
    "permuted_pixels": permuted_pixels,
    "permuted_labels": permuted_labels,
    "random_labels": random_labels,
}
