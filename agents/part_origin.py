"""Where a part of a branch starts: at the weights and the optimizer's state of the same part of another run."""

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch.optim import Optimizer

from plasticity.interventions.base import Intervention
from plasticity.networks.network import Network
from plasticity.optimizers.factory import OptimizerSettings

_SHOWN: Final = 3
_TRIED: Final = 8  # inputs that two networks are compared on
# The entries of a parameter group that settings determine; all other entries belong to the optimizer's state.
_SAID: Final = ("lr", "betas", "eps", "momentum", "alpha", "centered")


@dataclass(frozen=True)
class PartOrigin:
    """A part of the run that another branches from.

    Attributes:
        state: What ``Updater.state_dict`` returned there.
        optimizer: Settings of its optimizer.
    """

    state: Mapping[str, Any]
    optimizer: OptimizerSettings

    def adopted(self, settings: OptimizerSettings, optimizer: Optimizer) -> dict[str, Any]:
        """Returns the state with the values that the branch's own settings give its optimizer.

        A different optimizer starts from an empty state. The same one with other settings continues from its state with those.

        Args:
            settings: Settings of the branch's optimizer.
            optimizer: The optimizer made from them.
        """
        state = dict(self.state)
        if settings.name != self.optimizer.name:
            del state["optimizer"]
        elif settings != self.optimizer:
            saved = state["optimizer"]
            groups = [
                {**old, **{key: value for key, value in own.items() if key in _SAID}}
                for old, own in zip(saved["param_groups"], optimizer.param_groups, strict=True)
            ]
            state["optimizer"] = {**saved, "param_groups": groups}
        return state


def refuse_another_function(
    part: str, network: Network, before: Callable[[], Network], origin: PartOrigin, methods: Mapping[str, Intervention]
) -> None:
    """Refuses methods that are built into a network and would change what it computes where a run branches.

    A method is allowed if it adds no parameters and leaves the outputs as they are, bit for bit, in training and evaluation.

    Args:
        part: Name of the part.
        network: The branch's network.
        before: Builds the network without the methods that are new.
        origin: The part of the run that it branches from.
        methods: The methods of the branch, by name.

    Raises:
        ValueError: In one line that names the methods and what they add.
    """
    saved = origin.state["network"]
    new = [name for name, method in methods.items() if name not in origin.state["interventions"] and _builds(method)]
    told = f"intervention={','.join(new)} " if new else ""
    added = [name for name, _ in network.named_parameters() if name not in saved]
    if added:
        raise ValueError(f"branch: {told}adds parameters {_listed(added)} to {part}, and a branch has those of its parent")
    present = network.state_dict()
    lost = [name for name in saved if name not in present]
    if lost:
        raise ValueError(f"branch: {part} of the parent has {_listed(lost)}, which this network lacks; what is built in stays")
    other = [name for name, value in saved.items() if value.shape != present[name].shape]
    if other:
        raise ValueError(f"branch: {told}changes the shape of {_listed(other)} of {part}, and a branch has those of its parent")
    if new and not _same_outputs(network, before(), saved):
        raise ValueError(
            f"branch: {told}changes what {part} computes before anything is learned, and must be there from the start"
        )


def _same_outputs(network: Network, before: Network, weights: Mapping[str, torch.Tensor]) -> bool:
    """Tells whether two networks with the same weights agree bit for bit on some inputs, in both modes; changes ``before``."""
    generator = torch.Generator().manual_seed(0)
    first = next(network.parameters())
    shape, dtype = network.input_shape, network.input_dtype
    if dtype.is_floating_point:
        inputs = torch.randn(_TRIED, *shape, generator=generator).to(first.device, dtype)
    else:
        inputs = torch.randint(0, 2, (_TRIED, *shape), generator=generator).to(first.device, dtype)
    ours = deepcopy(network)
    ours.load_state_dict({**ours.state_dict(), **weights})
    before.load_state_dict(weights)
    for training in (False, True):
        outputs = []
        for each in (ours, before):
            each.train(training)
            try:
                with torch.no_grad():
                    outputs.append(each(inputs))
            except ValueError:  # from a layer that refuses to run before its method is attached: it is not the identity
                return False
        if not torch.equal(*outputs):
            return False
    return True


def _builds(method: Intervention) -> bool:
    return type(method).build is not Intervention.build


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{', '.join(names[:_SHOWN])}{more}"
