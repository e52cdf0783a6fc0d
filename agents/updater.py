"""The one seam: every backward pass and every optimizer step of the testbed's agents happens in ``Updater.step``."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from agents.update_trace import UpdateTrace
from interventions.base import Intervention, Logs, Update
from networks.network import Network
from seeding import torch_generator

_HOOKS = ("loss", "after_backward", "after_step", "task_switch", "evaluation_network")


class Updater:
    """Trains one part of an agent: a network, its optimizer, and the interventions on them, in the order of the config.

    Args:
        part: The part's name, such as ``q`` or ``learner``.
        network: The network with its initial weights, on its device.
        optimizer: Holds every parameter of the network once.
        interventions: Instances of this part alone, by name, in order.
        seed: The run's seed; each intervention draws from a generator private to (seed, part, name).
        max_gradient_norm: Bound of the joint gradient norm, or None.
        autocast: Type of the forward pass, ``torch.bfloat16``, or None for float32 throughout.

    Attributes:
        steps: Updates so far.
        copies: Networks that accompany this one, such as ``target``; the agent fills it before the first update.
        trace: Norms of one update, made on request; see ``UpdateTrace``.
    """

    def __init__(
        self,
        part: str,
        network: Network,
        optimizer: Optimizer,
        interventions: Mapping[str, Intervention],
        seed: int,
        max_gradient_norm: float | None = None,
        autocast: torch.dtype | None = None,
    ) -> None:
        self.part, self.network, self.seed = part, network, seed
        self.interventions = dict(interventions)
        self.max_gradient_norm, self.autocast = max_gradient_norm, autocast
        # The structure is final, and walking the modules at every update would be a good part of a small one.
        self._parameters = list(network.parameters())
        self.device = self._parameters[0].device
        self.steps = 0
        self.copies: dict[str, Network] = {}
        self._batch: Any = None
        self._generators = {name: torch_generator(seed, part, name, device=self.device) for name in self.interventions}
        for intervention in self.interventions.values():
            optimizer = intervention.wrap_optimizer(optimizer)
        self.optimizer = optimizer
        for name, intervention in self.interventions.items():
            intervention.attach(self._view(name))
        self._hooked = {hook: self._overriding(hook) for hook in _HOOKS}
        self._records = any(intervention.needs_taps for intervention in self.interventions.values())
        self.initial = {name: value.detach().clone() for name, value in network.named_parameters()}
        self.trace = UpdateTrace(network)
        self._finite = torch.ones((), dtype=torch.bool, device=self.device)

    def forward(self, inputs: Tensor) -> Tensor:
        """Runs the training forward, in training mode; interventions that need activations get those of this call.

        Args:
            inputs: (B, *input_shape).

        Returns:
            The head's output, in float32 whatever the precision.
        """
        self.network.train()
        if self._records:
            with self.network.taps.record():
                return self._forward(inputs, self.network)
        return self._forward(inputs, self.network)

    @torch.no_grad()
    def predict(self, inputs: Tensor) -> Tensor:
        """Runs the network that acts and is evaluated, in evaluation mode and without a graph."""
        return self.infer(inputs, self.evaluation_network())

    @torch.no_grad()
    def infer(self, inputs: Tensor, network: Network) -> Tensor:
        """Runs ``network``, this one or a copy, in evaluation mode, without a graph, in the precision of the run."""
        network.eval()
        return self._forward(inputs, network)

    def step(self, loss: Tensor, batch: Any) -> Logs:
        """Makes one update from a loss whose graph comes from ``forward``.

        Args:
            loss: A scalar.
            batch: What the loss was computed from, shown to the interventions.

        Returns:
            Logs of the interventions, as ``<name>/<key>``.

        Raises:
            FloatingPointError: If the loss or a gradient is not finite; the weights are as before.
        """
        self.steps += 1
        self._batch = batch
        logs: Logs = {}
        for name, intervention in self._hooked["loss"]:
            term = intervention.loss(self._view(name))
            if term is not None:
                loss = loss + term
                logs[f"{name}/loss"] = term.detach()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._each("after_backward", logs)
        self._clip_and_check(loss.detach())
        with self.trace.of("optimizer"):
            self.optimizer.step()
        with self.trace.of("intervention"):
            self._each("after_step", logs)
        self.trace.close(self.steps)
        return logs

    def task_switch(self, task: int) -> Logs:
        """Tells the interventions that ``task`` begins."""
        logs: Logs = {}
        for name, intervention in self._hooked["task_switch"]:
            _collect(logs, name, intervention.task_switch(self._view(name), task))
        return logs

    def evaluation_network(self) -> Network:
        """Returns the network to act with and to evaluate, which an intervention may replace by an average of its own."""
        network = self.network
        for name, intervention in self._hooked["evaluation_network"]:
            chosen = intervention.evaluation_network(self._view(name))
            network = network if chosen is self.network else chosen
        return network

    def raise_if_not_finite(self) -> None:
        """Raises FloatingPointError if an update since the start met a loss or gradient that is not finite.

        On the CPU ``step`` has raised already. On an accelerator ``step`` refuses the update without waiting for the device, and
        the run learns of it here, when a line is written.
        """
        if not bool(self._finite):
            raise FloatingPointError(f"part {self.part}: the loss or a gradient is not finite at or before update {self.steps}")

    def state_dict(self) -> dict[str, Any]:
        """Returns everything the next update depends on."""
        return {
            "steps": self.steps,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "initial": self.initial,
            "copies": {name: network.state_dict() for name, network in self.copies.items()},
            "interventions": {name: intervention.state_dict() for name, intervention in self.interventions.items()},
            "generators": {name: generator.get_state() for name, generator in self._generators.items()},
            "trace": self.trace.norms,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what ``state_dict`` returned.

        Raises:
            ValueError: If the checkpoint was made with other interventions.
        """
        saved, present = list(state["interventions"]), list(self.interventions)
        if saved != present:
            raise ValueError(f"part {self.part}: the checkpoint was made with interventions {saved}, this run has {present}")
        self.steps = state["steps"]
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        for name, value in state["initial"].items():
            self.initial[name].copy_(value)
        for name, network in self.copies.items():
            network.load_state_dict(state["copies"][name])
        for name, intervention in self.interventions.items():
            intervention.load_state_dict(state["interventions"][name])
            self._generators[name].set_state(state["generators"][name])
        self.trace.norms = dict(state["trace"])

    def _forward(self, inputs: Tensor, network: Network) -> Tensor:
        if self.autocast is None:
            plain: Tensor = network(inputs)
            return plain
        with torch.autocast(self.device.type, self.autocast):
            outputs: Tensor = network(inputs)
        return outputs.float()

    def _view(self, name: str) -> Update:
        generator = self._generators[name]
        return Update(self.steps, self.network, self.optimizer, self._batch, self.network.taps, generator, self.copies)

    def _overriding(self, hook: str) -> list[tuple[str, Intervention]]:
        """Returns the interventions that define ``hook``, so that an update calls no empty ones."""
        plain = getattr(Intervention, hook)
        return [(name, method) for name, method in self.interventions.items() if getattr(type(method), hook) is not plain]

    def _each(self, hook: str, logs: Logs) -> None:
        for name, intervention in self._hooked[hook]:
            _collect(logs, name, getattr(intervention, hook)(self._view(name)))

    def _clip_and_check(self, loss: Tensor) -> None:
        gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        norm = nn.utils.get_total_norm(gradients, foreach=True)
        self.trace.gradients(norm)
        finite = (norm + loss).isfinite()
        if self.device.type == "cpu":
            if not bool(finite):
                raise FloatingPointError(f"part {self.part}: the loss or a gradient is not finite in update {self.steps}")
        else:
            self._refuse_on_device(finite)
        if self.max_gradient_norm is not None:
            nn.utils.clip_grads_with_norm_(self._parameters, self.max_gradient_norm, norm, foreach=True)

    def _refuse_on_device(self, finite: Tensor) -> None:
        """Lets the fused optimizer skip this step if ``finite`` is false, without a word to the host."""
        self._finite &= finite
        self.optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]
        self.optimizer.grad_scale = None  # type: ignore[attr-defined]


def _collect(logs: Logs, name: str, new: Logs | None) -> None:
    for key, value in (new or {}).items():
        logs[f"{name}/{key}"] = value
