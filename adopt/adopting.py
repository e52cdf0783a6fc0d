"""``adopt``: every method on anybody's module, in anybody's loop."""

import inspect
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import fields
from typing import Any, Final

import torch
from torch import nn
from torch.optim import Optimizer

from plasticity.adopt.describing import UnitsOf, described
from plasticity.adopt.finding import find_units
from plasticity.adopt.initial_values import Fresh, initialisers_of
from plasticity.adopt.network import AdoptedNetwork
from plasticity.adopt.optimizer import AdoptedOptimizer
from plasticity.adopt.tracing import Forward
from plasticity.interventions.base import Intervention
from plasticity.interventions.registry import INTERVENTIONS
from plasticity.networks.layers.initialisers import Initialiser
from plasticity.networks.network import Network
from plasticity.optimizers.unit_adam import UnitAdam

_RESTART: Final = "restart"


def adopt(
    module: nn.Module,
    optimizer: Optimizer,
    methods: Sequence[str | Intervention],
    example: Any,
    *,
    forward: Forward | None = None,
    units: Sequence[UnitsOf] | None = None,
    fresh: Fresh | None = None,
    initialisers: Mapping[str, Initialiser] | None = None,
    copies: Mapping[str, nn.Module] | None = None,
    max_gradient_norm: float | None = None,
    part: str = "module",
    seed: int = 0,
) -> AdoptedOptimizer:
    """Gives a module methods against the loss of plasticity; the loop that trains it stays as it is.

    The units of the module are found by tracing one forward, and their activations recorded by hooks on its own layers: those of
    an update are those whose gradients the update uses. What is returned steps in place of ``optimizer``.

    Args:
        module: Any module; not compiled yet (adopt first, then compile).
        optimizer: Holds its parameters, perhaps among others.
        methods: Names of interventions, with their default settings, or instances; in the order in which their hooks run.
        example: Inputs to trace with: a tensor, a dict of tensors, or a tuple of several inputs.
        forward: How the module is used, a function of module and inputs; for modules without a forward that can be traced.
        units: What the hidden units are, for a module that cannot be traced; None to find them.
        fresh: Builds the module again, with other initial values; None for the defaults of PyTorch's modules.
        initialisers: Distributions of parameters by name, where they are others.
        copies: Modules of the same kind that accompany it, ``{"target": target}``: what a reset copies itself to if told so.
        max_gradient_norm: Bound of the joint gradient norm, applied after the methods' look at the gradients. A bound that the
            loop applies before ``step`` comes before them instead.
        part: Name of the module among several, from which private generators are derived.
        seed: From which they are derived.

    Raises:
        ValueError: In one line: the module cannot be traced (with the user's file and line), a method is unknown or must be built
            in, the optimizer holds nothing of the module, or does not fit a method.
    """
    _refuse(module, optimizer)
    made = _methods(methods)
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    trained = frozenset(id(each) for each in module.parameters() if each.requires_grad and id(each) in held)
    if not trained:
        raise ValueError(f"the optimizer holds no parameter of the module {type(module).__name__} that is trained")
    found = find_units(module, example, forward, trained) if units is None else described(module, units, trained)
    network = AdoptedNetwork(module, forward, found, initialisers_of(module, fresh, initialisers), fresh, example)
    network.trained = trained
    others: dict[str, Network] = {
        name: AdoptedNetwork(each, forward, found, network.initialisers, fresh, example) for name, each in (copies or {}).items()
    }
    base = _with_restarts(optimizer, made)
    try:
        return AdoptedOptimizer(network, base, made, others, part, seed, max_gradient_norm)
    except ValueError as error:
        network.recorder.remove()
        if found.units.layers:
            raise
        told = (
            "; ".join(found.lines())
            or "none of its operations is a map of PyTorch's, nn.Linear or nn.Conv2d, in front of another"
        )
        raise ValueError(f"no unit of the module can be reset one by one: {told} ({error})") from error


def _refuse(module: nn.Module, optimizer: Optimizer) -> None:
    """Raises ValueError for a module whose layers are hidden, and for an optimizer whose step is not one update."""
    if isinstance(module, torch._dynamo.OptimizedModule) or module._compiled_call_impl is not None:
        raise ValueError("the module is compiled, and its layers are not to be seen any more: adopt it first, then compile it")
    if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
        raise ValueError(f"{type(module).__name__} hides the module that it runs: adopt that one, module.module")
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise ValueError(
            f"{type(optimizer).__name__} runs the loss as often as it likes in one step, where methods see one update"
        )


def _methods(methods: Sequence[str | Intervention]) -> dict[str, Intervention]:
    """Returns instances of their own by name.

    Raises:
        ValueError: If one is unknown, there twice, must be built in, or refuses another.
    """
    if isinstance(methods, str):
        raise ValueError(f"methods={methods!r} must be a list, [{methods!r}]")
    made: dict[str, Intervention] = {}
    for each in methods:
        method = INTERVENTIONS.named(each)() if isinstance(each, str) else deepcopy(each)
        if not isinstance(method, Intervention):
            raise ValueError(f"methods: {each!r} is neither the name of an intervention nor an instance of one")
        if not method.name:
            raise ValueError(f'methods: {type(method).__name__} has no name; give its class name = "my_method", or register it')
        if method.name in made:
            raise ValueError(f"methods: {method.name} is there twice")
        if reason := why_not_adopted(type(method)):
            raise ValueError(f"{method.name} {reason}: it cannot be adopted")
        made[method.name] = method
    for name, method in made.items():
        for other in made.keys() & method.conflicts.keys():
            raise ValueError(f"methods: {name} refuses {other}: {method.conflicts[other]}")
    return made


def why_not_adopted(method: type[Intervention]) -> str:
    """Returns why a method works in this project's own networks and loop alone, "" if it works elsewhere too."""
    if method.build is not Intervention.build:
        return "changes the structure of a network, and must be built into the module"
    if method.sample_weights is not Intervention.sample_weights:
        return "says what is drawn from a replay, which is your loop's"
    return ""


def _with_restarts(optimizer: Optimizer, methods: Mapping[str, Intervention]) -> Optimizer:
    """Returns an Adam that can restart single entries, with the groups and the state of the given one, if a method asks for it.

    Raises:
        ValueError: If it is an Adam of another kind.
    """
    asking = [
        name
        for name, method in methods.items()
        if any(field.name.endswith("optimizer_state") and getattr(method, field.name) == _RESTART for field in fields(method))
    ]
    if not asking or not isinstance(optimizer, torch.optim.Adam) or isinstance(optimizer, UnitAdam):
        return optimizer
    groups = optimizer.param_groups
    odd = [name for name in ("amsgrad", "maximize", "differentiable") if any(group.get(name) for group in groups)]
    kind = type(optimizer)
    if odd or kind not in (torch.optim.Adam, torch.optim.AdamW):
        what = f"{kind.__name__}({odd[0]}=True)" if odd else kind.__name__
        raise ValueError(
            f"{asking[0]}.optimizer_state=restart cannot restart single entries of {what}; choose keep or zero, or give "
            "torch.optim.Adam, AdamW, SGD or RMSprop as they are"
        )
    made = UnitAdam(groups)  # the groups themselves, so that a change made through the given optimizer is seen in both
    made.state.update(optimizer.state)
    optimizer.state, optimizer.param_groups = made.state, made.param_groups
    return made
