"""Law 10: an adopted module with a method is the testbed's own network with it, update by update."""

from dataclasses import fields
from typing import Any

import pytest
import torch
from adopted_pairs import examples, paired
from registries import built_in_interventions

from plasticity.adopt import adopt
from plasticity.interventions.base import Intervention
from plasticity.interventions.registry import INTERVENTIONS

# Those that must be built in, draw from a replay, or ask what outputs stand for.
REFUSED = [
    name
    for name in built_in_interventions()
    if INTERVENTIONS[name].build is not Intervention.build
    or INTERVENTIONS[name].sample_weights is not Intervention.sample_weights
    or name in ("churn", "dr3")
]
ADOPTED = [name for name in built_in_interventions() if name not in REFUSED]
# Whole networks that are drawn again are drawn by the names of parameters, which are others in another module.
BY_NAME = ("reset",)


def method(name: str) -> Intervention:
    """A method that acts several times in a short run."""
    known = {field.name for field in fields(INTERVENTIONS[name])}
    settings: dict[str, Any] = {"maturity_updates": 5, "replacement_rate": 0.02, "every_updates": 7}
    if "at_updates" in known:
        settings = {"at_updates": [5, 9]}
    return INTERVENTIONS[name](**{key: value for key, value in settings.items() if key in known})


@pytest.mark.parametrize("kind", ["mlp", "conv", "dueling"])
@pytest.mark.parametrize("name", [name for name in ADOPTED if name not in BY_NAME])
def test_an_adopted_module_is_the_network_of_the_testbed(name: str, kind: str) -> None:
    pair = paired(kind, method(name))
    for batch in examples(pair.updater.network.input_shape, 30):
        pair.update(batch)
    assert pair.difference() == 0


@pytest.mark.parametrize("name", ["continual_backprop", "redo", "shrink_and_perturb", "l2_init", "trac"])
def test_a_residual_network_with_batch_normalisation_too(name: str) -> None:
    pair = paired("resnet", method(name))
    for batch in examples(pair.updater.network.input_shape, 12, rows=8):
        pair.update(batch)
    assert pair.difference() == 0


def test_without_a_bound_and_without_a_method_in_force_too() -> None:
    pair = paired("mlp", INTERVENTIONS["l2_init"](coefficient=0.0), bound=None)
    for batch in examples((6,), 10):
        pair.update(batch)
    assert pair.difference() == 0


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_adopted_says_so_in_a_line(name: str) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    with pytest.raises(ValueError) as raised:
        adopt(module, optimizer, [name], torch.zeros(2, 4))
    assert "\n" not in str(raised.value)
    assert any(
        words in str(raised.value)
        for words in (f"{name} changes the structure", f"{name} says what is drawn", "not known of an adopted module", "refuses")
    )
