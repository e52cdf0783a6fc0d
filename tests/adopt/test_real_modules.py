"""What the modules of published packages do in a forward: they ask whether a value is a tensor, and go through a dict."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from plasticity.adopt.finding import find_units


class Maps(nn.Module):
    """Two maps with a ReLU between them."""

    def __init__(self, inputs: int = 4) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(inputs, 8), nn.Linear(8, 2)

    def read(self, x: Any) -> Any:
        return self.b(torch.relu(self.a(x)))


def test_inputs_layers_and_their_products_say_that_they_are_tensors() -> None:
    class Module(Maps):
        def forward(self, x: Any) -> Any:
            assert isinstance(x, Tensor), f"not a tensor but {type(x)}"
            scaled = x.float() / 255
            assert isinstance(scaled, Tensor)
            hidden = self.a(scaled)
            assert isinstance(hidden, Tensor)
            assert not isinstance(hidden, nn.Parameter)
            return self.b(hidden.relu())

    module = Module()
    assert find_units(module, torch.zeros(3, 4, dtype=torch.uint8), None).units.names == ("a",)
    assert module(torch.zeros(3, 4)).shape == (3, 2)


def test_of_two_inputs_each_is_a_tensor() -> None:
    class Module(Maps):
        def forward(self, x: Any, y: Any) -> Any:
            assert isinstance(x, Tensor)
            assert isinstance(y, Tensor)
            return self.read(torch.cat([x, y], dim=1))

    assert find_units(Module(), (torch.zeros(3, 3), torch.zeros(3, 1)), None).units.names == ("a",)


def test_a_dict_of_inputs_is_a_dict_that_can_be_gone_through() -> None:
    class Module(Maps):
        def forward(self, inputs: Any) -> Any:
            assert isinstance(inputs, dict)
            assert all(isinstance(value, Tensor) for value in inputs.values())
            return self.read(torch.cat([value for _, value in sorted(inputs.items())], dim=1))

    told = find_units(Module(), {"near": torch.zeros(3, 3), "far": torch.zeros(3, 1)}, None)
    assert told.units.names == ("a",)


def test_a_dict_of_inputs_can_be_spread() -> None:
    class Module(Maps):
        def forward(self, near: Any, far: Any) -> Any:
            return self.read(torch.cat([near, far], dim=1))

    example = {"near": torch.zeros(3, 3), "far": torch.zeros(3, 1)}
    assert find_units(Module(), example, lambda module, inputs: module(**inputs)).units.names == ("a",)


def test_what_a_forward_stores_in_its_module_does_not_stop_it() -> None:
    class Module(Maps):
        def forward(self, x: Any) -> Any:
            self.latest = self.a(x)
            return self.b(self.latest.relu())

    module = Module()
    assert find_units(module, torch.zeros(3, 4), None).units.names == ("a",)
    assert not hasattr(module, "latest")  # neither is it left there
    assert sorted(dict(module.named_parameters())) == ["a.bias", "a.weight", "b.bias", "b.weight"]


def test_sizes_and_what_a_recurrent_layer_returns_are_no_tensors() -> None:
    class Module(Maps):
        def __init__(self) -> None:
            super().__init__(6)
            self.memory = nn.GRU(4, 6, batch_first=True)

        def forward(self, x: Any) -> Any:
            assert not isinstance(x.shape[0], Tensor)
            assert not isinstance(x.size(0), Tensor)
            output = self.memory(x)
            assert not isinstance(output, Tensor)
            return self.read(output[0][:, -1])

    assert find_units(Module(), torch.zeros(3, 5, 4), None).units.names == ("a",)


def test_an_assertion_that_fails_is_still_told_with_its_line() -> None:
    class Module(Maps):
        def forward(self, x: Any) -> Any:
            assert isinstance(x, dict), "a dict is wanted"
            return self.read(x["near"])

    with pytest.raises(ValueError, match=r"cannot be traced at .*test_real_modules\.py:\d+: a dict is wanted"):
        find_units(Module(), torch.zeros(3, 4), None)
