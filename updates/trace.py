"""What one update was like: its gradient, what the optimizer changed, what the interventions changed after it, and the effect."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property
from typing import Any, Final

import torch
from torch import Tensor, nn

from plasticity.networks.network import Network
from plasticity.networks.objective import Batch

EVERY_UPDATES: Final = 100
MOST_REFERENCES: Final = 256
_NOT_MEASURED: Final = nullcontext()
MOST_OUTPUTS: Final = 2**20  # of one forward: a sequence of tokens has a million numbers, and all are kept and saved


class UpdateTrace:
    """Measures the first update and every hundredth, so that a recent one is always available; costs nothing in the others.

    Args:
        network: The trained network.
        infer: Maps inputs to the network's outputs in evaluation mode, without a graph.

    Attributes:
        norms: Joint norms of the last traced update, by ``gradient`` (before clipping, the interventions' edits included),
            ``optimizer`` and ``intervention``, each also per parameter as ``gradient/<name>`` and so on; plus ``update``, the
            number of that update. Empty before the first.
        details: Of the same update: the norm of each parameter before it, ``parameter/<name>``, the number of entries of its
            gradient that are exactly 0, ``zeros/<name>``, and the mean |gradient| of the weights into each unit of a hidden
            layer, ``magnitude/<layer>``, (U,).
        outputs: Of the last hundredth update: the network's outputs before and after it, interventions included, for inputs of
            the update before that, for no more inputs than give ``MOST_OUTPUTS`` numbers; None before the first of them.
    """

    def __init__(self, network: Network, infer: Callable[[Tensor], Tensor]) -> None:
        self.norms: dict[str, Tensor | int] = {}
        self.details: dict[str, Tensor] = {}
        self.outputs: tuple[Tensor, Tensor] | None = None
        self._network, self._infer = network, infer
        self._armed = self._compares = False
        self._references: Tensor | None = None
        self._norms: dict[str, Tensor | int] = {}
        self._details: dict[str, Tensor] = {}
        self._before: Tensor | None = None

    @cached_property
    def _parameters(self) -> dict[str, nn.Parameter]:
        return dict(self._network.named_parameters())  # found by a walk through all modules

    @property
    def armed(self) -> bool:
        """Whether the norms of the update that is being made are taken."""
        return self._armed

    def open(self, update: int, batch: Batch | None) -> None:
        """Starts the update numbered ``update`` = 1, 2, ...

        Args:
            update: The number.
            batch: What it is made from; the inputs are kept if the next update is a hundredth.
        """
        self._armed = self._armed or update == 1 or update % EVERY_UPDATES == 0
        self._compares = update % EVERY_UPDATES == 0 and self._references is not None
        if (update + 1) % EVERY_UPDATES == 0 and batch is not None:
            # A copy, since a view would be saved with the whole tensor behind it.
            self._references = batch.inputs[:MOST_REFERENCES].detach().clone()

    def arm(self) -> None:
        """Requests the norms of the next update, regardless of its number."""
        self._armed = True

    def before(self) -> None:
        """Takes what is known of the parameters before the optimizer's step."""
        if not self._armed:
            return
        self._forget()
        self._details |= _norms("parameter", {name: value.detach() for name, value in self._parameters.items()})
        if self._compares:
            self._before = self._reference_outputs()

    def gradients(self, total: Tensor) -> None:
        """Takes the norms of the parameters' gradients, ``total`` being the joint one, and the details of them."""
        if not self._armed:
            return
        self._norms["gradient"] = total
        gradients = {name: value.grad for name, value in self._parameters.items() if value.grad is not None}
        self._norms |= _norms("gradient", gradients)
        self._details |= {f"zeros/{name}": (gradient == 0).sum() for name, gradient in gradients.items()}
        for layer in self._network.units.layers:
            gradient = self._network.tensor(layer.weight.tensor).grad
            if gradient is not None:
                self._details[f"magnitude/{layer.name}"] = layer.weight.sums(gradient.abs()) * (layer.units / gradient.numel())

    def of(self, what: str) -> AbstractContextManager[None]:
        """Takes the norms of the change that the block makes to the parameters."""
        return self._measuring(what) if self._armed else _NOT_MEASURED

    @contextmanager
    def _measuring(self, what: str) -> Iterator[None]:
        values = [parameter.detach() for parameter in self._parameters.values()]
        before = [value.clone() for value in values]
        yield
        norms = _norms(what, dict(zip(self._parameters, torch._foreach_sub(values, before), strict=True)))
        self._norms |= {what: torch.stack(list(norms.values())).norm(), **norms}

    def close(self, update: int) -> None:
        """Ends the update numbered ``update`` and publishes what was requested."""
        if self._armed:
            self.norms, self.details, self._armed = {**self._norms, "update": update}, self._details, False
            if self._before is not None:
                self.outputs = (self._before, self._reference_outputs())
                self._references = None
            self._forget()

    def state_dict(self) -> dict[str, Any]:
        """Returns what was published, and what the next traced update needs."""
        return {"norms": self.norms, "details": self.details, "outputs": self.outputs, "references": self._references}

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Restores what ``state_dict`` returned."""
        self.norms, self.details = dict(state["norms"]), dict(state["details"])
        self.outputs = None if state["outputs"] is None else (state["outputs"][0], state["outputs"][1])
        self._references = None if state["references"] is None else state["references"].to(device)

    def _forget(self) -> None:
        self._norms, self._details, self._before = {}, {}, None

    def _reference_outputs(self) -> Tensor:
        """Returns the outputs for the references, and leaves the network in the mode it is in."""
        assert self._references is not None
        was_training = self._network.training
        outputs = self._infer(self._references).detach().float()
        self._network.train(was_training)
        kept = max(1, MOST_OUTPUTS // max(1, outputs[0].numel()))
        return outputs if kept >= outputs.shape[0] else outputs[:kept].clone()


def _norms(what: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    norms = torch._foreach_norm(list(tensors.values())) if tensors else ()
    return {f"{what}/{name}": norm for name, norm in zip(tensors, norms, strict=True)}
