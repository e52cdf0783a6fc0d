"""The probe task: how well can a copy of the network, with a fresh optimizer, still learn something new?"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import ClassVar, Final, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from plasticity.metrics.log_values import Measurements, Series
from plasticity.metrics.observer import passes
from plasticity.metrics.probe_space import SPACES, VALUES, OutputSpace, Space, space_of
from plasticity.metrics.undefined import Undefined
from plasticity.metrics.view import Part, View
from plasticity.networks.layers.dropout import without_dropout
from plasticity.networks.network import Network
from plasticity.networks.torsos.torso_network import TorsoNetwork
from plasticity.settings.fields import Settings, setting
from plasticity.settings.seeding import derive_seed, torch_generator

FREQUENCY: Final = 1e5
_CURVE_POINTS: Final = 20
DRAWS_PER_INPUT: Final = 4  # drawn from a replay of a few hundred different inputs, many come twice
_OUTPUTS: Final = OutputSpace()
_MEAN: Final = "mean"
OFFSETS: Final = ("prediction", _MEAN)


@dataclass
class ProbeSettings(Settings):
    """When the probe task is run, and for how long."""

    section: ClassVar[str] = "probe"

    every_steps: int = setting(5_000, "Period in steps of the stream, 0 for never.", low=0)
    before_first_update: bool = setting(
        False,
        "Whether the initial network of every part is probed too, as ``first_probe/<key>``, on a data stream on its first "
        "examples, in an environment on the inputs that exist when the first update is made.",
    )
    steps: int = setting(
        1000, 'Optimizer steps of one probe. Half of the 2,000 in "Towards perpetually trainable neural networks", B.3.', low=1
    )
    inputs: int = setting(512, "Different inputs to fit, drawn from what the part is trained on; fewer while fewer exist.", low=1)
    batch_size: int = setting(128, "Inputs per step.", low=1)
    learning_rate: float = setting(1e-3, "Of the fresh Adam.", low=0)
    random_labels: bool = setting(True, "Whether classifiers must also memorise uniformly random labels of the same inputs.")
    space: str = setting(
        VALUES,
        "``values``: where values are categoricals, the probe fits the values that they stand for by the "
        "agent's own loss, and its errors compare with those of scalar values; B.3 reads them as temporal-"
        "difference errors of random rewards. ``outputs``: it fits their logits by squared errors. All other "
        "outputs are fitted as they are in either.",
        choices=SPACES,
    )
    targets: int = setting(
        1,
        "Probes with other targets, batches and fresh networks, whose values are averaged; of 2 or more each one's are logged "
        "too, as ``probe/<key>_repeat_0`` and so on. Ten in Lyle et al. 2023.",
        low=1,
    )
    offset: str = setting(
        OFFSETS[0],
        "What the noise is added to. ``prediction``: the network's output for each input. ``mean``: its mean over the "
        'inputs, for each output, as in Lyle et al. 2023, "Understanding plasticity in neural networks", with 2,000 steps.',
        choices=OFFSETS,
    )


class Curve(NamedTuple):
    """Losses on all inputs while a probe is fitted: (points,) steps, and (points,) losses."""

    steps: Tensor
    losses: Tensor


class Fitted(NamedTuple):
    """The results for the targets of one draw: values by key, and the curves of the network and of the fresh one."""

    values: dict[str, float]
    aged: Curve
    fresh: Curve


@torch.no_grad()
def high_frequency_noise(network: Network, inputs: Tensor, seed: int, space: Space = _OUTPUTS) -> Tensor:
    """Returns eta(x) = sin(1e5 * g(x)) for a fresh random network g of the same shape, read in ``space``.

    Source: Lyle et al. 2023, "Understanding plasticity in neural networks". At a frequency of 1e5 the sine of a float32 would
    be made of rounding errors, so g is evaluated once in float64.
    """
    other = network.fresh(seed).double().eval()
    exact = inputs.double() if inputs.is_floating_point() else inputs
    return torch.sin(FREQUENCY * space.read(other, other(exact))).float()


@torch.no_grad()
def probe_targets(network: Network, inputs: Tensor, noise: Tensor, space: Space = _OUTPUTS, offset: str = OFFSETS[0]) -> Tensor:
    """Returns the frozen targets of the probe, from the network in evaluation mode, read in ``space``.

    They are f(theta; x) + eta(x), or, if the offset is the mean, a + eta(x), a being the mean of f(theta; x) over the inputs.
    """
    with network.evaluating():
        outputs: Tensor = network(inputs)
    read = space.read(network, outputs)
    return (read.mean(0, keepdim=True) if offset == _MEAN else read) + noise


def latest_distinct(inputs: Tensor, count: int) -> Tensor:
    """Returns the last ``count`` inputs that are all different, in their order; fewer if fewer exist.

    A repeated input makes the probe easier, because there is one target less to fit. If repeats were kept, the loss would rise
    while a replay fills, although the network learns as well as before.

    Args:
        inputs: (n, *input_shape).
        count: At least 1.
    """
    rows = torch.arange(inputs.shape[0], device=inputs.device)
    unique, group = torch.unique(inputs.flatten(1), dim=0, return_inverse=True)
    last = rows.new_zeros(unique.shape[0]).scatter_reduce_(0, group, rows, "amax")
    return inputs[last.sort().values[-count:]]


def fit(
    network: Network,
    inputs: Tensor,
    loss: Callable[[Tensor, Tensor], Tensor],
    settings: ProbeSettings,
    generator: torch.Generator,
    measure: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Curve:
    """Trains ``network`` in place with a fresh Adam, and without dropout.

    Args:
        network: A copy that is used only here.
        inputs: (n, *input_shape).
        loss: Called with outputs and row numbers, (B,); returns the mean loss over these rows.
        settings: Steps, batch size and learning rate.
        generator: Chooses the rows; give two networks equal generators to show them the same batches.
        measure: Called like ``loss`` for the curve, which is that of the loss without it.

    Returns:
        The loss, or the measure, on all rows in evaluation mode, before the first step, at about 20 points, and after the last.
    """
    without_dropout(network)
    every = max(1, settings.steps // _CURVE_POINTS)
    optimizer = torch.optim.Adam(network.parameters(), lr=settings.learning_rate, fused=True)
    rows, measure = torch.arange(inputs.shape[0], device=inputs.device), measure or loss
    steps, losses = [0], [_evaluate(network, inputs, rows, measure)]
    for step in range(1, settings.steps + 1):
        batch = torch.randint(inputs.shape[0], (settings.batch_size,), generator=generator, device=inputs.device)
        with torch.enable_grad():
            network.train()
            error = loss(network(inputs[batch]), batch)
            optimizer.zero_grad(set_to_none=True)
            error.backward()
        optimizer.step()
        if step % every == 0 or step == settings.steps:
            steps.append(step)
            losses.append(_evaluate(network, inputs, rows, measure))
    return Curve(torch.tensor(steps), torch.stack(losses).cpu())


@torch.no_grad()
def _evaluate(network: Network, inputs: Tensor, rows: Tensor, loss: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    network.eval()
    return loss(network(inputs), rows)


class ProbeObserver:
    """Runs the probe on a copy of every part, and on a fresh network of the same shape with the same inputs and batches.

    Both are fitted in the space of the settings, by the same loss. A value beyond the atoms of a categorical cannot be reached,
    and its error counts.

    Logs, averaged over parts and by part as ``probe/<key>/<part>``: ``loss`` (mean squared error on all inputs at the end),
    ``fresh_loss``, ``relative_loss`` = loss / fresh_loss, ``explained_variance`` = 1 - loss / var(eta), ``auc`` and ``fresh_auc``
    (mean of the curve), and the two curves. For classifiers also ``random_label_loss``, ``random_label_accuracy`` and their
    ``fresh`` counterparts. A ratio compares a network with its own architecture only: read it together with the loss.

    With ``probe.offset=mean`` also ``baseline_loss`` b, here that of the best constant for each output, and ``plasticity`` = b -
    loss, the measure of Lyle et al. 2023. The fresh network's offset is its own mean. Of several targets all of these are means,
    as the curves are, except for random labels, which are fitted once.
    """

    at_task_switch = False

    def __init__(self, settings: ProbeSettings, seed: int) -> None:
        self.settings, self.seed = settings, seed

    def due(self, before: int, after: int) -> bool:
        """Returns whether the period ends in this step."""
        return passes(before, after, self.settings.every_steps)

    def measure(self, view: View) -> Measurements:
        """Returns the probe's logs; see the class."""
        logs: Measurements = {}
        pooled: dict[str, list[float]] = {}
        for name, part in view.agent.parts.items():
            space = space_of(part.network, part.value_errors, self.settings.space)
            if (reason := _reason_not_probed(part, space)) or space is None:
                logs[f"probe/loss/{name}"] = undefined = Undefined(reason)
                pooled.setdefault("loss", []).append(undefined)
                continue
            device = next(part.network.parameters()).device
            generator = torch_generator(self.seed, "probe inputs", name, view.step, device=device)
            drawn = view.agent.sample_inputs(name, DRAWS_PER_INPUT * self.settings.inputs, generator)
            if drawn is None:
                return {"probe/loss": Undefined("there are no inputs yet")}
            inputs = latest_distinct(drawn, self.settings.inputs)
            values, curves = self._probe(part, space, inputs, derive_seed(self.seed, "probe", name, view.step))
            for key, value in values.items():
                logs[f"probe/{key}/{name}"] = value
                pooled.setdefault(key, []).append(value)
            logs[f"probe/curve/{name}"] = curves
        return logs | {f"probe/{key}": _mean(values) for key, values in pooled.items()}

    def _probe(self, part: Part, space: Space, inputs: Tensor, seed: int) -> tuple[dict[str, float], Series]:
        """Returns the values, and the curves, averaged over targets; the first has the seed itself."""
        seeds = [seed, *(derive_seed(seed, "target", number) for number in range(1, self.settings.targets))]
        found = [self._probe_target(part, space, inputs, own) for own in seeds]
        values = {key: _mean([one.values[key] for one in found]) for key in found[0].values}
        if len(found) > 1:
            for number, one in enumerate(found):
                values |= {f"{key}_repeat_{number}": value for key, value in one.values.items()}
        if part.network.head_spec.kind == "classification" and self.settings.random_labels:
            values |= self._fit_random_labels(part.network, inputs, seed)
        pairs = {"aged": [one.aged for one in found], "fresh": [one.fresh for one in found]}
        curves = {name: torch.stack([curve.losses for curve in own]).mean(0) for name, own in pairs.items()}
        return values, Series(found[0].aged.steps, curves, "optimizer steps", "mean squared error")

    def _probe_target(self, part: Part, space: Space, inputs: Tensor, seed: int) -> Fitted:
        noise = high_frequency_noise(part.network, inputs, derive_seed(seed, "noise"), space)
        aged, fresh = (
            self._fit_values(network, space, inputs, noise, seed)
            for network in (deepcopy(part.network), part.network.fresh(derive_seed(seed, "fresh")))
        )
        loss, fresh_loss, variance = float(aged.losses[-1]), float(fresh.losses[-1]), float(noise.var(correction=0))
        values = {
            "loss": loss,
            "fresh_loss": fresh_loss,
            "relative_loss": loss / fresh_loss if fresh_loss != 0 else Undefined("the fresh network fits exactly"),
            "explained_variance": 1 - loss / variance if variance != 0 else Undefined("the noise is the same everywhere"),
            "auc": float(aged.losses.mean()),
            "fresh_auc": float(fresh.losses.mean()),
        }
        if self.settings.offset == _MEAN:
            baseline = float(noise.var(0, correction=0).mean())
            values |= {"baseline_loss": baseline, "plasticity": baseline - loss}
        return Fitted(values, aged, fresh)

    def _fit_values(self, network: Network, space: Space, inputs: Tensor, noise: Tensor, seed: int) -> Curve:
        targets = probe_targets(network, inputs, noise, space, self.settings.offset)
        generator = torch_generator(seed, "batches", device=inputs.device)
        return fit(
            network,
            inputs,
            lambda outputs, rows: space.loss(network, outputs, targets[rows]),
            self.settings,
            generator,
            lambda outputs, rows: functional.mse_loss(space.read(network, outputs), targets[rows]),
        )

    def _fit_random_labels(self, network: Network, inputs: Tensor, seed: int) -> dict[str, float]:
        """Fits uniformly random labels, which tests the ability to learn without anything to generalise."""
        draw = torch_generator(seed, "labels", device=inputs.device)
        labels = torch.randint(network.head_spec.outputs, (inputs.shape[0],), generator=draw, device=inputs.device)
        values: dict[str, float] = {}
        for prefix, copy in (("", deepcopy(network)), ("fresh_", network.fresh(derive_seed(seed, "fresh")))):
            generator = torch_generator(seed, "label batches", device=inputs.device)
            curve = fit(
                copy, inputs, lambda outputs, rows: functional.cross_entropy(outputs, labels[rows]), self.settings, generator
            )
            with copy.evaluating():
                accuracy = (copy(inputs).argmax(1) == labels).float().mean()
            values |= {f"{prefix}random_label_loss": float(curve.losses[-1]), f"{prefix}random_label_accuracy": float(accuracy)}
        return values


def _reason_not_probed(part: Part, space: Space | None) -> str:
    """Returns why a part cannot be probed, or ""."""
    if isinstance(part.network, TorsoNetwork) and part.network.torso.reads_tokens:
        return "the probe fits functions of numbers, and the inputs are tokens"
    return "the part does not define how it learns categorical values; probe.space=outputs fits logits" if space is None else ""


def _mean(values: list[float]) -> float:
    """Returns the mean, or the first undefined value, because a sum would lose its reason."""
    undefined = [value for value in values if isinstance(value, Undefined)]
    return undefined[0] if undefined else sum(values) / len(values)
