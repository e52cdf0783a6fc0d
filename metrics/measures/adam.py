"""Adam's use of gradients: sums from which sizes of steps are computed, per parameter."""

from collections.abc import Sequence
from math import sqrt

import torch
from torch import Tensor
from torch.optim import Optimizer

from plasticity.metrics.undefined import Undefined


def adam_sums(optimizer: Optimizer, parameters: list[Tensor]) -> Tensor | Undefined:
    """Returns the sums for the Adam diagnostics, added up over parameters; see ``step_sizes``.

    Moments are corrected for their start, as Adam does, with the step count of the whole tensor: the entries of units that were
    restarted with a count of their own are treated with that count too.

    Args:
        optimizer: Any; one that keeps no moments is not of Adam's kind.
        parameters: Some of its parameters.

    Returns:
        (4,) float64: entries, sum of |m| / (sqrt(v) + eps), entries with sqrt(v) < eps, sum of log(lr / (sqrt(v) + eps)).
    """
    if not parameters:
        return Undefined("there are no parameters")
    groups = {parameter: group for group in optimizer.param_groups for parameter in group["params"]}
    sums = []
    for parameter in parameters:
        state, group = optimizer.state.get(parameter, {}), groups.get(parameter, {})
        if not {"exp_avg", "exp_avg_sq", "step"} <= state.keys() or not {"betas", "eps", "lr"} <= group.keys():
            return Undefined("the optimizer has no moments like Adam's, or has made no step yet")
        if state["exp_avg"].shape != parameter.shape or state["exp_avg_sq"].shape != parameter.shape:
            return Undefined("the optimizer's moments are not of the shape of the parameters")
        sums.append(step_sizes(state["exp_avg"], state["exp_avg_sq"], float(state["step"]), group))
    return torch.stack(sums).sum(0)


def step_sizes(first: Tensor, second: Tensor, steps: float, group: dict[str, object]) -> Tensor:
    """Returns the sums of one parameter.

    Args:
        first: Running mean of the gradient, ``exp_avg``.
        second: Running mean of its square, ``exp_avg_sq``, of the same shape.
        steps: Steps so far, at least 1.
        group: The settings ``betas``, ``eps`` and ``lr``.
    """
    betas, eps, rate = group["betas"], group["eps"], group["lr"]
    assert isinstance(betas, tuple | list)
    assert isinstance(eps, float)
    m = first.detach().double() / (1 - betas[0] ** steps)
    root = (second.detach().double() / (1 - betas[1] ** steps)).sqrt()
    divisor = root + eps
    rates = torch.as_tensor(rate, dtype=torch.float64, device=divisor.device) / divisor
    count = torch.tensor(float(m.numel()), dtype=torch.float64, device=divisor.device)
    return torch.stack([count, (m.abs() / divisor).sum(), (root < eps).sum().double(), rates.log().sum()])


def moment_sums(optimizer: Optimizer, parameters: Sequence[Tensor], gradients: Sequence[Tensor]) -> Tensor | Undefined:
    """Returns the sums for the cosine between the optimizer's first moment and a gradient, added up over parameters.

    The moment is taken as it is kept: the correction for its start is one factor for all parameters, which does not change a
    cosine. Units that were restarted count with what they have accumulated since.

    Args:
        optimizer: Any; one of Adam's kind keeps a running mean of the gradient, ``exp_avg``.
        parameters: Some of its parameters.
        gradients: One of each, of its shape.

    Returns:
        (3,) float64: inner product of moment and gradient, squared norm of the moment, squared norm of the gradient.
    """
    if not parameters:
        return Undefined("there are no parameters")
    sums = []
    for parameter, gradient in zip(parameters, gradients, strict=True):
        moment = optimizer.state.get(parameter, {}).get("exp_avg")
        # Optimizers whose state mixes entries keep it along other axes than the parameter's own.
        if moment is None or not getattr(optimizer, "per_entry_state", True):
            return Undefined("the optimizer has no first moment like Adam's, or has made no step yet")
        m, g = moment.detach().double(), gradient.double()
        sums.append(torch.stack([(m * g).sum(), m.square().sum(), g.square().sum()]))
    return torch.stack(sums).sum(0)


def cosine_of(sums: Tensor) -> float:
    """Returns the cosine, in [-1, 1], from ``moment_sums``, or why there is none."""
    product, moment, gradient = map(float, sums)
    if not abs(product) + moment + gradient < float("inf"):
        return Undefined("the gradient is not finite")
    if not (moment > 0 and gradient > 0):
        return Undefined("the moment is 0" if gradient > 0 else "the gradient is 0")
    return max(-1.0, min(1.0, product / sqrt(moment * gradient)))
