"""Recorded functions, with a stand-in for CUDA graphs and, where there is a device, with the real ones."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from plasticity.agents.parts import PartBuilder
from plasticity.interventions.methods.continual_backprop import ContinualBackprop
from plasticity.interventions.methods.dropout import Dropout
from plasticity.networks.spec import HeadSpec
from plasticity.networks.torsos.feedforward import MLPSpec
from plasticity.optimizers.factory import OptimizerSettings
from plasticity.updates.captured_function import CapturedFunction
from plasticity.updates.compiled_function import MOST_LAYOUTS
from plasticity.updates.execution import Execution

BuildPart = Callable[..., PartBuilder]
Thunk = Callable[[], Sequence[Tensor]]


class NoHostReads(TorchDispatchMode):
    """Refuses what a CUDA graph cannot hold: operations whose result, or its shape, the host must know."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        masked = name in ("index", "index_put_") and any(i is not None and i.dtype == torch.bool for i in args[1])
        assert not masked, f"{name} with a mask"
        assert name not in ("_local_scalar_dense", "nonzero", "masked_select", "equal"), name
        return func(*args, **(kwargs or {}))


class Recorder:
    """Does what a CUDA graph does: nothing while it records, and at a replay the same with the same addresses."""

    def __init__(self) -> None:
        self.recordings = 0

    def __call__(self, warm_up: Thunk, thunk: Thunk) -> tuple[Sequence[Tensor], Callable[[], object]]:
        self.recordings += 1
        outputs = [torch.full_like(output, float("nan")) for output in warm_up()]

        def replay() -> None:
            with NoHostReads():
                values = thunk()
            for place, value in zip(outputs, values, strict=True):
                place.copy_(value)

        return outputs, replay


def moved(weight: Tensor, inputs: Tensor) -> list[Tensor]:
    """Adds the inputs' mean to the weight; returns a scalar and a vector."""
    weight.add_(inputs.mean())
    return [weight.sum(), inputs * weight]


def test_by_hand_what_is_fixed_changes_in_place_and_the_rest_is_copied() -> None:
    record = Recorder()
    weight = torch.tensor([1.0])
    call = CapturedFunction(moved, fixed=1, record=record)
    total, scaled = call(weight, torch.tensor([2.0, 4.0]))
    assert (weight.item(), total.item(), scaled.tolist()) == (4.0, 4.0, [8.0, 16.0])  # the warm-up changed copies
    again, later = call(weight, torch.tensor([1.0, 3.0]))
    assert (weight.item(), again.item(), later.tolist()) == (6.0, 6.0, [6.0, 18.0])
    assert total.item() == 4.0  # a scalar is the caller's
    assert later is scaled  # the rest lies where the next call writes
    assert record.recordings == 1
    call(weight, torch.tensor([1.0, 1.0, 1.0]))
    call(weight, torch.tensor([2.0, 2.0, 2.0]))
    assert (weight.item(), record.recordings) == (9.0, 2)


def test_layouts_beyond_a_number_are_not_recorded() -> None:
    record, weight = Recorder(), torch.zeros(1)
    call = CapturedFunction(moved, fixed=1, record=record)
    for size in range(1, MOST_LAYOUTS + 3):
        assert len(call(weight, torch.ones(size))[1]) == size
    assert (record.recordings, weight.item()) == (MOST_LAYOUTS, MOST_LAYOUTS + 2)


class Batch(NamedTuple):
    """Inputs and what is to be said of them."""

    inputs: Tensor
    targets: Tensor


def distance(outputs: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    error = (outputs - batch.targets).square()
    return error.mean(), {"largest": error.max()}


def batch(number: int, count: int, device: torch.device) -> Batch:
    generator = torch.Generator().manual_seed(number)
    inputs, targets = torch.randn(count, 4, generator=generator), torch.randn(count, 2, generator=generator)
    return Batch(inputs.to(device), targets.to(device))


def updates_alike(builder: BuildPart, name: str, device: torch.device, compile: bool = False) -> None:
    """Compares twelve updates of a network that changes itself, of two sizes of minibatch, with plain ones."""
    methods = {
        "continual_backprop": partial(ContinualBackprop, replacement_rate=0.2, maturity_updates=2),
        "dropout": partial(Dropout, rates=[0.3]),
    }
    made = builder(methods, spec=MLPSpec(widths=[6], normalisation=["batch"]), optimizer=OptimizerSettings(name, 0.02))
    plain, recorded = (
        replace(made, device=device, execution=execution)("q", HeadSpec("regression", 2))
        for execution in (Execution(), Execution(compile=compile, capture=True))
    )
    seen = []
    for number in range(12):
        data = batch(number, 5 if number == 7 else 8, device)
        logs, others = plain.update(distance, data), recorded.update(distance, data)
        seen.append((logs, others))
    for logs, others in seen:  # only now: what was logged must have outlived later updates
        assert logs.keys() == others.keys()
        for key, value in logs.items():
            torch.testing.assert_close(torch.as_tensor(others[key]), torch.as_tensor(value), rtol=1e-4, atol=1e-6)
    for key, value in plain.network.state_dict().items():
        torch.testing.assert_close(recorded.network.state_dict()[key], value, rtol=1e-4, atol=1e-6)
    assert any(float(logs["continual_backprop/units_reset"]) > 0 for logs, _ in seen)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])  # with the step inside, and with gradients alone
def test_recorded_updates_are_the_plain_ones(monkeypatch: pytest.MonkeyPatch, builder: BuildPart, optimizer: str) -> None:
    record = Recorder()
    monkeypatch.setattr("plasticity.updates.captured_function.record_on_cuda", record)
    updates_alike(builder, optimizer, torch.device("cpu"))
    assert record.recordings == {"sgd": 3, "adam": 2}[optimizer]  # two sizes; the first update of SGD is traced


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_recorded_updates_are_the_plain_ones_on_a_device(builder: BuildPart, optimizer: str, compile: bool) -> None:
    updates_alike(builder, optimizer, torch.device("cuda"), compile)
