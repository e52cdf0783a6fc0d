"""A frozen backbone with a trained head, and an encoder that two heads with an optimizer each share.

Run with torch 2.13.0. Units that are made or read by what is frozen, or by what another optimizer trains, are left alone.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from plasticity.adopt import AdoptedOptimizer, adopt
from plasticity.interventions.methods.redo import ReDo

EVERY_TEN = [ReDo(threshold=0.5, every_updates=10)]


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU())
        self.policy = nn.Sequential(nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 2))
        self.value = nn.Sequential(nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.encoder(x)
        return self.policy(features), self.value(features)


def frozen_backbone(steps: int) -> tuple[nn.Module, AdoptedOptimizer]:
    backbone = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU()).requires_grad_(False)
    model = nn.Sequential(backbone, nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 1))
    trained = [each for each in model.parameters() if each.requires_grad]
    optimizer = adopt(model, torch.optim.Adam(trained), EVERY_TEN, torch.zeros(2, 8))
    for _ in range(steps):
        x = torch.randn(64, 8)
        optimizer.zero_grad()
        functional.mse_loss(model(x)[:, 0], x.sum(1).sin()).backward()
        optimizer.step()
    return model, optimizer


def two_optimizers(steps: int) -> tuple[TwoHeads, list[AdoptedOptimizer]]:
    model = TwoHeads()
    of_policy = torch.optim.Adam([*model.encoder.parameters(), *model.policy.parameters()])
    both = {"policy": of_policy, "value": torch.optim.Adam(model.value.parameters())}
    adopted = [adopt(model, each, EVERY_TEN, torch.zeros(2, 8), part=name) for name, each in both.items()]
    for _ in range(steps):
        x = torch.randn(64, 8)
        logits, values = model(x)
        for each in adopted:
            each.zero_grad()
        (functional.cross_entropy(logits, (x[:, 0] > 0).long()) + functional.mse_loss(values[:, 0], x[:, 1])).backward()
        for each in adopted:
            each.step()
    return model, adopted


if __name__ == "__main__":
    for optimizer in (frozen_backbone(100)[1], *two_optimizers(100)[1]):
        print("\n".join([*optimizer.network.found.lines(), f"in the latest update: {optimizer.logs}\n"]))
