"""Two optimizers that divide a network's parameters between them, as one."""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.optim import Optimizer


class PairedOptimizer(Optimizer):
    """Steps two optimizers with different parameters; groups and state are those of both, in this order.

    Attributes:
        pair: The two.
    """

    def __init__(self, first: Optimizer, second: Optimizer) -> None:
        super().__init__([*first.param_groups, *second.param_groups], {})
        self.pair = (first, second)
        self._counts = (len(first.param_groups), len(second.param_groups))
        self._share()

    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Steps both."""
        for optimizer in self.pair:
            for name in ("found_inf", "grad_scale"):  # by which a fused step is refused on the device
                if hasattr(self, name):
                    setattr(optimizer, name, getattr(self, name))
            optimizer.step()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores what ``state_dict`` returned."""
        super().load_state_dict(state_dict)
        self._share()

    def _share(self) -> None:
        first = self._counts[0]
        for optimizer, groups in zip(self.pair, (self.param_groups[:first], self.param_groups[first:]), strict=True):
            optimizer.param_groups, optimizer.state = groups, self.state


def owner_of(optimizer: Optimizer, parameter: Tensor) -> Optimizer:
    """Returns the one of a pair that steps a parameter; an optimizer that is not a pair itself."""
    if not isinstance(optimizer, PairedOptimizer):
        return optimizer
    held = (any(entry is parameter for group in one.param_groups for entry in group["params"]) for one in optimizer.pair)
    return next(one for one, has in zip(optimizer.pair, held, strict=True) if has)
