"""Updates of several forwards, and of graphs that are kept."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from plasticity.adopt import AdoptedOptimizer, adopt
from plasticity.adopt.joining import inputs_of, joined_activations, joined_inputs
from plasticity.interventions.base import Intervention, Logs, Update


@dataclass
class Seeing(Intervention):
    """Keeps what it was shown of layer ``a``, and the inputs."""

    name: ClassVar[str] = "seeing"
    needs_taps: ClassVar[bool] = True

    def attach(self, u: Update) -> None:
        self.posts: list[Tensor] = []
        self.inputs: list[Any] = []

    def after_step(self, u: Update) -> Logs:
        self.posts.append(u.taps.post["a"])
        self.inputs.append(None if u.batch is None else u.batch.inputs)
        return {}


class Tasks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor, task: int = 0, mask: Tensor | None = None) -> Tensor:
        outputs: Tensor = self.b(functional.relu(self.a(x))) * (1 + task)
        return outputs


def seeing() -> tuple[nn.Module, AdoptedOptimizer, Seeing]:
    module = Tasks()
    optimizer = adopt(module, torch.optim.SGD(module.parameters(), 0.1), [Seeing()], torch.zeros(2, 4))
    method = optimizer.methods["seeing"]
    assert isinstance(method, Seeing)
    return module, optimizer, method


def test_a_kept_graph_counts_again_after_its_gradients_are_cleared() -> None:
    module, optimizer, method = seeing()
    inputs = torch.randn(6, 4)
    outputs = module(inputs)
    outputs[:, 0].sum().backward(retain_graph=True)
    optimizer.zero_grad()
    outputs[:, 1].sum().backward()
    with torch.no_grad():
        expected = functional.relu(module.a(inputs))  # type: ignore[operator]
    optimizer.step()
    assert torch.equal(method.posts[0], expected)
    assert torch.equal(method.inputs[0], inputs)


def test_a_forward_that_counts_again_keeps_its_place() -> None:
    module, optimizer, method = seeing()
    parts = torch.randn(3, 4), torch.randn(5, 4)
    first, second = (module(part).sum() for part in parts)
    first.backward(retain_graph=True)
    optimizer.zero_grad()
    second.backward()
    first.backward()
    optimizer.step()
    assert torch.equal(method.inputs[0], torch.cat(parts))
    assert len(method.posts[0]) == 8


@pytest.mark.parametrize(("tasks", "known"), [((1, 1), True), ((0, 1), False)])
def test_inputs_that_are_no_tensors_are_joined_if_they_agree(tasks: tuple[int, int], known: bool) -> None:
    module, optimizer, method = seeing()
    parts = torch.randn(3, 4), torch.randn(2, 4)
    for part, task in zip(parts, tasks, strict=True):
        module(part, task=task).sum().backward()
    optimizer.step()
    assert len(method.posts[0]) == 5
    if not known:
        assert method.inputs == [None]
        return
    assert torch.equal(method.inputs[0][0], torch.cat(parts))
    assert method.inputs[0][1] == 1


def test_inputs_by_name_are_known_if_their_place_is() -> None:
    module, x = Tasks(), torch.zeros(2, 4)
    assert inputs_of(module, (x,), {}) is x
    assert inputs_of(module, (x,), {"task": 2}) == (x, 2)
    assert inputs_of(module, (), {"x": x}) is x
    assert inputs_of(module, (x,), {"mask": x}) is None
    assert inputs_of(module, (x,), {"nobody": 1}) is None


def test_activations_of_images_of_several_sizes_become_rows() -> None:
    small, large = torch.tensor([[[1.0], [2.0]]]), torch.tensor([[[3.0, 5.0], [4.0, 6.0]]])
    assert joined_activations([small, large]).tolist() == [[1, 2], [3, 4], [5, 6]]
    assert joined_activations([small, small]).shape == (2, 2, 1)
    assert joined_inputs([small, large]) is None
    assert joined_inputs([{"a": small, "b": "word"}, {"a": small, "b": "word"}])["a"].shape == (2, 2, 1)


def test_a_saved_module_is_loaded_where_this_project_is_not(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    adopt(module, torch.optim.SGD(module.parameters(), 0.1), ["redo"], torch.zeros(2, 4))
    torch.save(module, tmp_path / "module.pt")
    code = (
        "import sys, torch; sys.modules['plasticity'] = None; "
        f"module = torch.load({str(tmp_path / 'module.pt')!r}, weights_only=False); print(tuple(module(torch.zeros(3, 4)).shape))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "(3, 2)\n", done.stderr


def test_a_script_is_refused_in_a_line() -> None:
    module = torch.jit.script(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)))
    with pytest.raises(ValueError, match=r"is a script, .* adopt the module that it was made from"):
        adopt(module, torch.optim.SGD(module.parameters(), 0.1), ["redo"], torch.zeros(2, 4))
