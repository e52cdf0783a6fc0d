"""The activations of an update are those whose gradients it uses."""

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from plasticity.adopt import AdoptedOptimizer, adopt
from plasticity.interventions.base import Intervention, Logs, Update


@dataclass
class Tape(Intervention):
    """Writes down how many rows it saw of each layer, and of the inputs."""

    name: ClassVar[str] = "tape"
    needs_taps: ClassVar[bool] = True

    def attach(self, u: Update) -> None:
        self.seen: list[dict[str, int]] = []
        self.inputs: list[int] = []
        self.posts: list[dict[str, Tensor]] = []

    def after_step(self, u: Update) -> Logs:
        self.seen.append({layer.name: len(u.taps.post[layer.name]) for layer in u.network.units.layers})
        self.inputs.append(0 if u.batch is None else len(u.batch.inputs))
        self.posts.append(dict(u.taps.post))
        return {}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 8), nn.Linear(8, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.relu(self.b(torch.relu(self.a(x)))))


def taped(module: nn.Module | None = None, **more: Any) -> tuple[nn.Module, AdoptedOptimizer, Tape]:
    module = module or Net()
    optimizer = adopt(module, torch.optim.SGD(module.parameters(), 0.1), [Tape()], torch.zeros(2, 4), **more)
    tape = optimizer.methods["tape"]
    assert isinstance(tape, Tape)
    return module, optimizer, tape


def rows(count: int) -> Tensor:
    return torch.randn(count, 4)


def test_only_the_training_forward_of_a_dqn_counts() -> None:
    module, optimizer, tape = taped()
    with torch.no_grad():
        module(rows(1))  # acts
        target = module(rows(8))
        module(rows(8))  # chooses the next actions
    outputs = module(rows(8))
    module.eval()
    with torch.inference_mode():
        module(rows(5))
    module.train()
    module(rows(7))  # with gradients, for a log: nothing goes backward through it
    optimizer.zero_grad()
    (outputs - target).square().mean().backward()
    optimizer.step()
    assert tape.seen == [{"a": 8, "b": 8}]
    assert tape.inputs == [8]


def test_micro_batches_of_one_step_are_one_batch() -> None:
    module, optimizer, tape = taped()
    batches = [rows(4), rows(4)]
    optimizer.zero_grad()
    for batch in batches:
        module(batch).sum().backward()
    optimizer.step()
    assert tape.seen == [{"a": 8, "b": 8}]
    assert tape.inputs == [8]


def test_they_are_those_of_the_forward_bit_for_bit() -> None:
    module, optimizer, tape = taped()
    batch = rows(8)
    assert isinstance(module, Net)
    first = torch.relu(module.a(batch)).detach()
    optimizer.zero_grad()
    module(batch).sum().backward()
    optimizer.step()
    assert torch.equal(tape.posts[0]["a"], first)


def test_what_is_cleared_does_not_count() -> None:
    """An actor's loss goes through the critic: its gradients are cleared before the critic's own update."""
    critic, optimizer, tape = taped()
    critic(rows(6)).mean().backward()
    optimizer.zero_grad()
    critic(rows(8)).square().mean().backward()
    optimizer.step()
    assert tape.seen == [{"a": 8, "b": 8}]


def test_the_forward_may_come_before_the_gradients_are_cleared() -> None:
    module, optimizer, tape = taped()
    for count in (5, 5, 3):  # three minibatches of PPO
        loss = module(rows(count)).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert [seen["a"] for seen in tape.seen] == [5, 5, 3]


@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing_counts_once(reentrant: bool) -> None:
    class Checkpointed(Net):
        def forward(self, x: Tensor) -> Tensor:
            if torch.is_grad_enabled() and x.requires_grad:
                h: Tensor = checkpoint(lambda z: torch.relu(self.b(torch.relu(self.a(z)))), x, use_reentrant=reentrant)
                return self.c(h)
            return super().forward(x)

    module = Checkpointed()
    optimizer = adopt(
        module, torch.optim.SGD(module.parameters(), 0.1), [Tape()], torch.zeros(2, 4), forward=lambda m, x: Net.forward(m, x)
    )
    optimizer.zero_grad()
    module(rows(9).requires_grad_()).sum().backward()
    optimizer.step()
    assert optimizer.methods["tape"].seen == [{"a": 9, "b": 9}]


def test_a_copy_keeps_the_hooks_and_stays_silent(tmp_path: Any) -> None:
    from copy import deepcopy

    module, optimizer, tape = taped()
    copy = deepcopy(module)
    torch.save(module, tmp_path / "module.pt")
    loaded = torch.load(tmp_path / "module.pt", weights_only=False)
    for other in (copy, loaded):
        other(rows(3)).sum().backward()
    assert torch.equal(loaded(torch.ones(1, 4)), module(torch.ones(1, 4)))
    optimizer.zero_grad()
    module(rows(8)).sum().backward()
    optimizer.step()
    assert tape.seen == [{"a": 8, "b": 8}]


def test_without_methods_that_read_activations_nothing_is_recorded() -> None:
    module = Net()
    optimizer = adopt(module, torch.optim.SGD(module.parameters(), 0.1), ["l2_init"], torch.zeros(2, 4))
    assert not optimizer.network.recorder.listening
    module(rows(8)).sum().backward()
    assert optimizer.network.recorder.waiting_inputs() is None
    assert all(not each._forward_hooks and not each._forward_pre_hooks for each in module.modules())


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(4, 8)
        self.heads = nn.ModuleList(nn.Sequential(nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 2)) for _ in range(2))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.relu(self.body(x))
        return self.heads[0](h), self.heads[1](h)


def test_a_layer_without_activations_is_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    module, optimizer, tape = taped(TwoHeads())
    assert isinstance(module, TwoHeads)
    for _ in range(101):
        optimizer.zero_grad()
        module.heads[0](torch.relu(module.body(rows(8)))).sum().backward()
        optimizer.step()
    assert all(seen == {"body": 8, "heads.0.0": 8} for seen in tape.seen)
    told = capsys.readouterr().err
    assert told.count("heads.1.0") == 1
    assert "in 100 steps" in told


def test_release_takes_the_hooks_off() -> None:
    module, optimizer, _ = taped()
    base = optimizer.release()
    assert isinstance(base, torch.optim.SGD)
    assert all(not each._forward_hooks and not each._forward_pre_hooks for each in module.modules())
