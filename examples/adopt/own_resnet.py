"""A residual network of one's own, with batch normalisation, on digits: what is found in it, and what is left alone and why.

Run with torch 2.13.0, scikit-learn 1.9.1. Units inside a block are reset with their running statistics; summed ones are not.
"""

from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

from plasticity.adopt import AdoptedOptimizer, adopt, measure
from plasticity.interventions.methods.continual_backprop import ContinualBackprop


def convolution(given: int, width: int, size: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(given, width, size, stride, size // 2, bias=False), nn.BatchNorm2d(width))


class Block(nn.Module):
    def __init__(self, given: int, width: int, stride: int) -> None:
        super().__init__()
        self.first, self.second = convolution(given, width, 3, stride), convolution(width, width, 3)
        self.shortcut = convolution(given, width, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.second(functional.relu(self.first(x))) + self.shortcut(x))


class ResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = convolution(1, 16, 3), nn.Linear(32, 10)
        self.blocks = nn.Sequential(Block(16, 16, 1), Block(16, 32, 2))

    def forward(self, x: Tensor) -> Any:
        return self.head(self.blocks(functional.relu(self.stem(x))).mean((2, 3)))


def main(epochs: int = 3) -> tuple[AdoptedOptimizer, float]:
    digits = load_digits()
    images, labels, model = torch.tensor(digits.images / 16).float()[:, None], torch.tensor(digits.target), ResNet()
    sgd = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    optimizer = adopt(model, sgd, [ContinualBackprop(replacement_rate=0.01, maturity_updates=5)], images[:2])
    print(*optimizer.network.found.lines(), sep="\n")
    resets = 0.0
    for _ in range(epochs):
        for rows in torch.randperm(len(images)).split(128):
            optimizer.zero_grad()
            functional.cross_entropy(model(images[rows]), labels[rows]).backward()
            optimizer.step()
            resets += float(optimizer.logs.get("continual_backprop/units_reset", 0))
    print(resets, "units were reset;", measure(model, images[:256], ["dormant_fraction"]))
    return optimizer, resets


if __name__ == "__main__":
    main()
