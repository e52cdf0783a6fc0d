"""Supervised learning from images as a script does it: PyTorch's modules, its default SGD, one loop."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional


def convnet(classes: int) -> nn.Module:
    """Returns the network of Continual ImageNet: three convolutions with pooling, two dense layers of 128."""
    layers: list[nn.Module] = []
    for inputs, channels, kernel in ((3, 32, 5), (32, 64, 3), (64, 128, 3)):
        layers += [nn.Conv2d(inputs, channels, kernel), nn.ReLU(), nn.MaxPool2d(2)]
    dense = [nn.Linear(512, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, classes)]
    return nn.Sequential(*layers, nn.Flatten(), *dense)


class Block(nn.Module):
    """Two convolutions with a shortcut around them."""

    def __init__(self, inputs: int, channels: int, stride: int) -> None:
        super().__init__()
        self.first, self.first_norm = nn.Conv2d(inputs, channels, 3, stride, 1), nn.BatchNorm2d(channels)
        self.second, self.second_norm = nn.Conv2d(channels, channels, 3, 1, 1), nn.BatchNorm2d(channels)
        self.around: nn.Module = nn.Identity()
        if stride != 1 or inputs != channels:
            self.around = nn.Sequential(nn.Conv2d(inputs, channels, 1, stride), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, inputs, H, W) to (B, channels, H / stride, W / stride)."""
        h = functional.relu(self.first_norm(self.first(x)))
        return functional.relu(self.second_norm(self.second(h)) + self.around(x))


def resnet18(classes: int) -> nn.Module:
    """Returns a ResNet-18 for images of 32 x 32, with biases in its convolutions."""
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 3, 1, 1), nn.BatchNorm2d(64), nn.ReLU()]
    inputs = 64
    for channels, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        layers += [Block(inputs, channels, stride), Block(channels, channels, 1)]
        inputs = channels
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, classes))


def bare_loop(network: nn.Module, images: Tensor, labels: Tensor, batch: int, rate: float) -> Callable[[int], None]:
    """Returns a program that makes a number of updates: shuffle, slice, divide by 255, forward, accuracy, backward, step.

    Args:
        network: The network.
        images: (n, 3, H, W) uint8.
        labels: (n,) int64.
        batch: Images in a minibatch.
        rate: Learning rate of SGD with momentum 0.9.
    """
    optimizer = torch.optim.SGD(network.parameters(), lr=rate, momentum=0.9)
    network.train()
    queue: list[Tensor] = []

    def program(updates: int) -> None:
        right = torch.zeros(updates, device=images.device)
        for update in range(updates):
            if not queue:
                queue.extend(torch.randperm(len(images), device=images.device).split(batch))
            rows = queue.pop()
            outputs = network(images[rows].float() / 255)
            loss = functional.cross_entropy(outputs, labels[rows])
            right[update] = (outputs.argmax(1) == labels[rows]).float().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return program
