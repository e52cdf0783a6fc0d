"""Building the trained parts of an agent: specification, network, optimizer, interventions, updater, in that order."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from plasticity.agents.part_origin import PartOrigin, refuse_another_function
from plasticity.interventions.base import Intervention
from plasticity.networks.factory import build_network
from plasticity.networks.network import Network
from plasticity.networks.spec import HeadSpec, NetworkSpec
from plasticity.optimizers.factory import OptimizerSettings, build_optimizer
from plasticity.settings.seeding import derive_seed
from plasticity.updates.execution import Execution
from plasticity.updates.updater import Updater

Factory = Callable[[], Intervention]


@dataclass(frozen=True)
class PartBuilder:
    """Builds the parts of one agent, all from the same settings.

    Attributes:
        spec: The network before any intervention.
        input_shape: Shape of one input.
        input_dtype: Its type.
        optimizer: The optimizer's settings.
        interventions: Makes the instance of each method that one part has, by name, in the order of the config.
        seed: The run's seed.
        device: Where the parts live.
        execution: How updates are carried out.
        channels_last: Whether weights of convolutions are laid out channels last, which is faster; their shape stays.
        part_specs: Networks of parts, by name, that differ from ``spec``.
        part_optimizers: Optimizers of parts, by name, that differ from ``optimizer``.
        origin: The parts of the run that this one branches from, by name; None for a run that starts from its own initial
            weights.
    """

    spec: NetworkSpec
    input_shape: Sequence[int]
    input_dtype: torch.dtype
    optimizer: OptimizerSettings
    interventions: Mapping[str, Factory] = field(default_factory=dict)
    seed: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    execution: Execution = field(default_factory=Execution)
    channels_last: bool = True
    part_specs: Mapping[str, NetworkSpec] = field(default_factory=dict)
    part_optimizers: Mapping[str, OptimizerSettings] = field(default_factory=dict)
    origin: Mapping[str, PartOrigin] | None = None

    def __call__(self, name: str, head: HeadSpec, input_shape: Sequence[int] | None = None, members: int = 1) -> Updater:
        """Builds one part.

        Args:
            name: The part's name; initial weights and generators depend on it.
            head: The output of its network.
            input_shape: Shape of one input, if it is not an observation; such inputs are float32.
            members: Networks of this shape side by side.

        Raises:
            ValueError: If an intervention cannot work on this network or optimizer.
        """
        chosen = {key: method for key, make in self.interventions.items() if _acts_on(method := make(), name)}
        shape, dtype = (self.input_shape, self.input_dtype) if input_shape is None else (input_shape, torch.float32)
        spec = self.part_specs.get(name, self.spec)

        def built(methods: Iterable[Intervention]) -> Network:
            full = replace(spec)
            for method in methods:
                full = method.build(full)
            network = build_network(full, shape, dtype, head, derive_seed(self.seed, name, "network"), members).to(self.device)
            if self.channels_last:
                network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # typed too late
            return network

        network = built(chosen.values())
        settings = self.part_optimizers.get(name, self.optimizer)
        optimizer = build_optimizer(settings, network, derive_seed(self.seed, name, "optimizer"))
        state = None
        if self.origin is not None:
            origin = self.origin[name]
            kept = origin.state["interventions"]
            refuse_another_function(name, network, lambda: built(m for key, m in chosen.items() if key in kept), origin, chosen)
            state = origin.adopted(settings, optimizer)
        bound, schedule = settings.max_gradient_norm, settings.rate_schedule
        return Updater(name, network, optimizer, chosen, self.seed, bound, self.execution, schedule, state)


def _acts_on(method: Intervention, part: str) -> bool:
    return not method.parts or part in method.parts
