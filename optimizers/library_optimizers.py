"""Second-order optimizers of the library ``pytorch-optimizer``, made to run and resume like the others.

That library draws from the global generators of PyTorch and NumPy, and keeps einsum expressions in its state. Here each step
draws from generators private to (seed, step), and entries that PyTorch's ``load_state_dict`` would corrupt are kept away from it.
"""

from collections.abc import Callable, Mapping
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from plasticity.networks.network import Network
from plasticity.optimizers.factory import OptimizerSettings, optimizer
from plasticity.settings.seeding import derive_seed


class Reproducible(Optimizer):
    """Runs a library optimizer's steps under generators private to (seed, step).

    Attributes:
        per_entry_state: False: the state of an entry of a parameter is spread over its preconditioners.

    Args:
        inner: The optimizer; its parameter groups and state are also those of this one.
        seed: Seed of its draws.
    """

    per_entry_state: Final = False

    def __init__(self, inner: Optimizer, seed: int) -> None:
        super().__init__(inner.param_groups, {})
        self._inner, self._seed, self._steps = inner, seed, 0
        self._share()

    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Makes one step of the library's optimizer; global generators are left as they were."""
        self._steps += 1
        with _seeded(derive_seed(self._seed, "optimizer", self._steps)):
            return self._inner.step(closure)

    def state_dict(self) -> dict[str, Any]:
        """Returns what the next step depends on: tensors, numbers and strings by index of the parameter."""
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        groups = [{key: value for key, value in group.items() if key != "params"} for group in self.param_groups]
        kept = [{key: value for key, value in group.items() if _plain(value)} for group in groups]
        return {"steps": self._steps, "groups": kept, "state": [_copied(dict(self.state.get(p, {}))) for p in parameters]}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restores what ``state_dict`` returned."""
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        self._steps = state_dict["steps"]
        for group, saved in zip(self.param_groups, state_dict["groups"], strict=True):
            group.update(saved)
        self._prepare(parameters)
        for parameter, saved in zip(parameters, state_dict["state"], strict=True):
            present = self.state[parameter]
            self.state[parameter] = {key: _restored(present.get(key), value, parameter.device) for key, value in saved.items()}
        self._share()

    def _prepare(self, parameters: list[Tensor]) -> None:
        """Lets the library make the objects that it keeps in the state, so that their contents can be restored."""
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        for group in self.param_groups:
            saved = group.get("step")
            self._inner.init_group(group)  # type: ignore[attr-defined]
            group["step"] = saved
        for parameter in parameters:
            parameter.grad = None

    def _share(self) -> None:
        self._inner.param_groups, self._inner.state = self.param_groups, self.state


@optimizer("soap")
def _soap(settings: OptimizerSettings, network: Network, seed: int) -> Optimizer:
    """SOAP: Adam in the eigenbasis of Shampoo's preconditioner (Vyas et al. 2024), computed every 10 steps."""
    from pytorch_optimizer import SOAP  # imported here, as it takes a second to load

    rate, betas = settings.learning_rate, settings.adam_betas
    return Reproducible(SOAP(list(network.parameters()), lr=rate, betas=betas, eps=settings.epsilon, weight_decay=0.0), seed)


@optimizer("shampoo")
def _shampoo(settings: OptimizerSettings, network: Network, seed: int) -> Optimizer:
    """Scalable Shampoo (Anil et al. 2020): a preconditioner for each axis of a parameter, computed every 10 steps.

    From the tenth step on a gradient of two axes or more is multiplied by an inverse root for each axis, in blocks of 512, and
    scaled to the length that it had (grafting onto SGD), with Nesterov momentum of the first beta. Vectors are not
    preconditioned.
    """
    return scalable_shampoo(list(network.parameters()), settings.learning_rate, settings.adam_betas, seed)


def scalable_shampoo(parameters: list[nn.Parameter], learning_rate: float, betas: tuple[float, float], seed: int) -> Optimizer:
    """Returns Scalable Shampoo over these parameters."""
    from pytorch_optimizer import ScalableShampoo  # imported here, as it takes a second to load

    inner = ScalableShampoo(
        parameters,
        lr=learning_rate,
        betas=betas,
        weight_decay=0.0,
        start_preconditioning_step=10,
        preconditioning_compute_steps=10,
        shape_interpretation=False,  # it would flatten every weight of up to 512 entries to a vector, which is not preconditioned
    )
    return Reproducible(inner, seed)


@optimizer("kron")
def _kron(settings: OptimizerSettings, network: Network, seed: int) -> Optimizer:
    """PSGD with Kronecker factors (Li 2018); its momentum is the first of the betas."""
    from pytorch_optimizer import Kron  # imported here, as it takes a second to load

    parameters = list(network.parameters())
    return Reproducible(Kron(parameters, lr=settings.learning_rate, momentum=settings.betas[0], weight_decay=0.0), seed)


@contextmanager
def _seeded(seed: int) -> Any:
    """Seeds the global generators of PyTorch and NumPy for the block."""
    state = np.random.get_state()  # noqa: NPY002 (the library draws from NumPy's global generator)
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() and torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        try:
            yield
        finally:
            np.random.set_state(state)  # noqa: NPY002


def _plain(value: Any) -> bool:
    return isinstance(value, int | float | bool | str | type(None) | tuple | list | Tensor)


def _copied(value: Any) -> Any:
    """Copies tensors inside dicts, lists, tuples and the library's objects, which become dicts of their contents."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: _copied(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_copied, value))
    if hasattr(value, "__dict__"):
        return {key: _copied(entry) for key, entry in vars(value).items() if _holds_tensors(entry)}
    return value


def _holds_tensors(value: Any) -> bool:
    return isinstance(value, Tensor) or (isinstance(value, list | tuple) and any(isinstance(entry, Tensor) for entry in value))


def _restored(present: Any, saved: Any, device: torch.device) -> Any:
    """Returns what was saved, inside the present object if it is the library's."""
    if hasattr(present, "__dict__") and not isinstance(present, Tensor):
        for key, value in saved.items():
            setattr(present, key, _restored(None, value, device))
        return present
    if isinstance(saved, Tensor):
        return saved.to(device, copy=True)
    if isinstance(saved, dict):
        return {key: _restored(None, entry, device) for key, entry in saved.items()}
    if isinstance(saved, list | tuple):
        return type(saved)(_restored(None, entry, device) for entry in saved)
    return saved
