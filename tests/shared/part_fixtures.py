from collections.abc import Callable, Mapping
from io import BytesIO
from typing import Any

import pytest
import torch

from plasticity.agents.parts import PartBuilder
from plasticity.interventions.base import Intervention
from plasticity.networks.spec import NetworkSpec
from plasticity.networks.torsos.feedforward import MLPSpec
from plasticity.optimizers.factory import OptimizerSettings
from plasticity.updates.execution import Execution

BuildPart = Callable[..., PartBuilder]


@pytest.fixture(scope="session")
def builder() -> BuildPart:
    """Makes a PartBuilder for vectors: ``builder(interventions, seed=, spec=, inputs=, optimizer=, autocast=, compile=)``."""

    def make(
        interventions: Mapping[str, Callable[[], Intervention]] | None = None,
        seed: int = 0,
        spec: NetworkSpec | None = None,
        inputs: tuple[int, ...] = (4,),
        dtype: torch.dtype = torch.float32,
        optimizer: OptimizerSettings | None = None,
        autocast: torch.dtype | None = None,
        compile: bool = False,
    ) -> PartBuilder:
        return PartBuilder(
            spec or MLPSpec(widths=[8, 6]),
            inputs,
            dtype,
            optimizer or OptimizerSettings(learning_rate=0.01),
            interventions or {},
            seed,
            execution=Execution(autocast, compile),
        )

    return make


@pytest.fixture(scope="session")
def through_disk() -> Callable[[Any], Any]:
    """Saves and loads a state as a checkpoint does, without any code in it."""

    def save_and_load(state: Any) -> Any:
        file = BytesIO()
        torch.save(state, file)
        file.seek(0)
        return torch.load(file, weights_only=True)

    return save_and_load


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, Mapping):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


@pytest.fixture(scope="session")
def same() -> Callable[[Any, Any], bool]:
    """Compares nested states bit by bit."""
    return _same
