from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import exp, inf, isnan, log, sqrt
from typing import Any

import pytest
import torch
from torch import Tensor

from plasticity.agents.parts import PartBuilder
from plasticity.interventions.base import Intervention, Logs, Update
from plasticity.metrics.catalogue import CATALOGUE, chosen, groups
from plasticity.metrics.groups.update_metrics import grama_scores
from plasticity.metrics.undefined import Undefined
from plasticity.metrics.view import PartView, view_part
from plasticity.networks.layers.activations import activation_named
from plasticity.networks.registry import TORSOS
from plasticity.networks.spec import HeadSpec, LoadBalancingSpec
from plasticity.networks.torsos.feedforward import ConvSpec, MLPSpec
from plasticity.networks.torsos.transformer import GPTSpec
from plasticity.optimizers.factory import OptimizerSettings
from plasticity.updates.updater import Updater

UNIT_METRICS = [
    "dormant_fraction",
    "dormant_fraction_tau_0",
    "dormant_fraction_tau_0.01",
    "dormant_fraction_tau_0.1",
    "dead_fraction",
    "active_fraction",
    "linearised_fraction",
    "linearised_fraction_0.95",
    "constant_slope_fraction",
    "firing_rate",
    "firing_entropy",
]
RANK_METRICS = ["effective_rank", "srank", "stable_rank", "feature_rank", "approximate_rank", "numerical_rank"]
PARAMETER_METRICS = [
    "weight_norm",
    "weight_magnitude",
    "distance_from_initialisation",
    "relative_distance_from_initialisation",
    "rms_distance_from_initialisation",
]
UPDATE_METRICS = [
    "gradient_norm",
    "gradient_zero_fraction",
    "grama_fraction",
    "update_norm",
    "update_ratio",
    "intervention_update_norm",
]
# Of these there is one number for each part, or one for each weight matrix; most have test files of their own.
OTHERS = {
    "dormant_fraction_drm",
    "firing_correlation",
    "one_sided_fraction",
    "below_zero_fraction",
    "averaged_firing_rate",
    "load_balancing_rate",
    "load_balancing_offset",
    "load_balancing_offset_size",
    "logit_norm",
    "output_entropy",
    "output_bias_norm",
    "feature_spectral_norm",
    "feature_top_share",
    "feature_singular_values",
    "principal_output_share",
    "principal_output_constancy",
    "principal_outputs",
    "feature_norm",
    "feature_drift",
    "feature_change",
    "weight_spectral_norm",
    "weight_condition_number",
    "weight_stable_rank",
    "weight_deviation_from_isometry",
    "adam_step",
    "adam_tiny_fraction",
    "effective_learning_rate",
    "policy_churn",
    "policy_mean_churn",
    "value_churn",
    "gradient_cosine",
    "gradient_cosine_above_0.9",
    "gradient_cosine_below_0",
    "gradient_effective_rank",
    "gradient_cosine_matrix",
    "ntk_effective_rank",
    "ntk_srank",
    "update_sign_agreement",
    "uniform_update_fraction",
    "nullspace_ratio",
    "ntk_matrix",
    "sharpness",
    "sharpness_magnitude",
    "hessian_trace",
    "hessian_effective_rank",
    "gradient_reliability",
    "gradient_strength",
    "optimization_readiness",
    "gradient_strength_fixed_smoothness",
    "optimization_readiness_fixed_smoothness",
    "k_step_gain",
    "moment_gradient_cosine",
}
DENSE_1, HEAD = "torso.layers.dense_1.linear", "head.linear"


def build(
    inputs: tuple[int, ...] = (2,),
    clip: float | None = None,
    methods: Mapping[str, Callable[[], Intervention]] | None = None,
    seed: int = 0,
    torso: str = "mlp",
    **spec: Any,
) -> Updater:
    """A part with one output and SGD of step size 0.5."""
    settings = OptimizerSettings("sgd", 0.5, max_gradient_norm=clip)
    builder = PartBuilder(TORSOS[torso](**spec), inputs, torch.float32, settings, methods or {}, seed)
    return builder("q", HeadSpec("regression", 1))


def assign(part: Updater, **values: Any) -> Updater:
    """Sets parameters: ``dense_1=(weight, bias)`` and so on; a number fills the tensor."""
    with torch.no_grad():
        for name, pair in values.items():
            path = HEAD if name == "head" else f"torso.layers.{name}.linear"
            for leaf, value in zip(("weight", "bias"), pair, strict=True):
                tensor = part.network.tensor(f"{path}.{leaf}")
                tensor.copy_(torch.as_tensor(value, dtype=torch.float32).expand_as(tensor))
    return part


def see(inputs: Tensor | None, **parts: Updater) -> list[PartView]:
    return [view_part(name, part, inputs) for name, part in parts.items()]


def taken(metric: str, views: Sequence[PartView]) -> dict[str, Any]:
    return dict(CATALOGUE[metric].measure(views))


def measure(metric: str, views: Sequence[PartView]) -> dict[str, float]:
    return {suffix: float(value) for suffix, value in taken(metric, views).items()}


# Activations, by hand
#
# On the four inputs, the units of the first layer are
#   a: z = h = (1, 1, 2, 2), always on, mean 1.5
#   b: z = (-1, -1, -1, -1), never on, mean 0
#   c: z = (1, -1, 2, -2), h = (1, 0, 2, 0), mean 0.75
# with layer mean 0.75 and scores 2, 0, 1. Those of the second read a alone, with weights 0, 0.005, 0.02, 0.05 and 4.925 that sum
# to 5: these are also the scores. Their z is positive on every input, but for the first, whose z is 0.

INPUTS = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0], [0.0, 2.0]])
WEIGHTS = [[weight, 0.0, 0.0] for weight in (0.0, 0.005, 0.02, 0.05, 4.925)]
# Pooled over 8 units, the first layer's 3, the second's 5.
BY_HAND = {
    "dormant_fraction": (4 / 8, 1 / 3, 3 / 5),
    "dormant_fraction_tau_0": (2 / 8, 1 / 3, 1 / 5),
    "dormant_fraction_tau_0.01": (3 / 8, 1 / 3, 2 / 5),
    "dormant_fraction_tau_0.1": (5 / 8, 1 / 3, 4 / 5),
    "dead_fraction": (2 / 8, 1 / 3, 1 / 5),
    "active_fraction": ((1.5 + 4) / 8, 1.5 / 3, 4 / 5),
    "linearised_fraction": (5 / 8, 1 / 3, 4 / 5),
    "linearised_fraction_0.95": (5 / 8, 1 / 3, 4 / 5),
    "constant_slope_fraction": (7 / 8, 2 / 3, 1.0),
    "firing_rate": ((1.5 + 4) / 8, 1.5 / 3, 4 / 5),
    "firing_entropy": (1 / 8, 1 / 3, 0.0),
}


def two_layers(**spec: Any) -> Updater:
    first = ([[1.0, 1.0], [0.0, 0.0], [1.0, -1.0]], [0.0, -1.0, 0.0])
    return assign(build(widths=[3, 5], **spec), dense_1=first, dense_2=(WEIGHTS, 0.0))


@pytest.mark.parametrize("metric", UNIT_METRICS)
def test_unit_metrics_by_hand(metric: str) -> None:
    pooled, first, second = BY_HAND[metric]
    expected = {"": pooled, "/q/dense_1": first, "/q/dense_2": second}
    assert measure(metric, see(INPUTS, q=two_layers())) == pytest.approx(expected)


@pytest.mark.parametrize("metric", UNIT_METRICS)
def test_unit_metrics_pool_the_units_of_all_parts(metric: str) -> None:
    # Another part with unit b alone: 9 units. Unit b is dormant, dead, not linearised, and its rate and entropy are 0.
    other = assign(build(widths=[1]), dense_1=(0.0, -1.0))
    pooled, first, second = BY_HAND[metric]
    silent = metric.startswith(("linearised", "firing", "active"))
    alone = 0.0 if silent else 1.0
    expected = {"": (8 * pooled + alone) / 9, "/q/dense_1": first, "/q/dense_2": second, "/critic/dense_1": alone}
    assert measure(metric, see(INPUTS, q=two_layers(), critic=other)) == pytest.approx(expected)


def test_crelu_by_hand() -> None:
    # Unit a: one half on, the other dead; unit b: the reverse; unit c: both halves half the time.
    # E|h| of the six halves: 1.5, 0, 0.75 and 0, 1, 0.75. Of the three units, a and b keep to one side.
    part = assign(build(widths=[3], activations=["crelu"]), dense_1=([[1.0, 1.0], [0.0, 0.0], [1.0, -1.0]], [0.0, -1.0, 0.0]))
    views = see(INPUTS, q=part)
    expected = {"dead_fraction": 2 / 6, "dormant_fraction": 2 / 6, "linearised_fraction": 2 / 3, "firing_rate": 1.5 / 3}
    assert {name: measure(name, views)[""] for name in expected} == pytest.approx(expected)


def test_leaky_units_on_either_side_are_linearised_and_none_is_dead() -> None:
    part = assign(build(widths=[3], activations=["leaky_relu"]), dense_1=([[1, 1], [0, 0], [1, -1]], [0.0, -1.0, 0.0]))
    views = see(INPUTS, q=part)
    assert measure("linearised_fraction", views)["/q/dense_1"] == pytest.approx(2 / 3)
    assert measure("dead_fraction", views)["/q/dense_1"] == 0.0


@pytest.mark.parametrize("activation", ["gelu", "swish", "elu", "pelu", "relu"])
def test_units_above_a_bend_are_linearised_and_those_below_saturate(activation: str) -> None:
    # z = (1, 1, 2, 2), (-1, -1, -1, -1) and (1, -1, 2, -2): the first alone keeps to the side that is, or tends to, a line.
    part = assign(build(widths=[3], activations=[activation]), dense_1=([[1, 1], [0, 0], [1, -1]], [0.0, -1.0, 0.0]))
    views = see(INPUTS, q=part)
    assert measure("linearised_fraction", views) == pytest.approx({"": 1 / 3, "/q/dense_1": 1 / 3})
    assert measure("linearised_fraction_0.95", views) == pytest.approx({"": 1 / 3, "/q/dense_1": 1 / 3})


def test_the_slope_that_a_linearised_gelu_tends_to() -> None:
    for name, least, largest in (("gelu", 0.5, 0.0006), ("swish", 0.5, 0.06)):
        z = torch.tensor([0.0, 4.0], requires_grad=True)
        (slope,) = torch.autograd.grad(activation_named(name).function(z).sum(), z)
        assert float(slope[0]) == pytest.approx(least)
        assert abs(float(slope[1]) - 1) < largest


def test_tanh_units_die_by_saturation() -> None:
    # z = 10 x: tanh(10) and tanh(20) exceed 0.99, tanh(0.1) does not.
    part = assign(build(inputs=(1,), widths=[2], activations=["tanh"]), dense_1=([[10.0], [0.1]], 0.0))
    assert measure("dead_fraction", see(torch.tensor([[1.0], [-2.0]]), q=part))[""] == 0.5


def test_convolution_pools_positions() -> None:
    # One channel z = x on 1x2 images: positive at 1 of 4 positions. Dense units read it.
    part = build((1, 1, 2), torso="conv", channels=[1], kernel_sizes=[1], widths=[1])
    assign(part, conv_1=(1.0, 0.0), dense_1=(1.0, 0.0))
    images = torch.tensor([[[[1.0, -1.0]]], [[[-2.0, 0.0]]]])
    assert measure("firing_rate", see(images, q=part)) == pytest.approx({"": 0.375, "/q/conv_1": 0.25, "/q/dense_1": 0.5})


# Ranks, by hand: the Gram matrix of a and c is [[10, 5], [5, 5]] with eigenvalues (15 +- sqrt(125)) / 2, whose roots are
# (5 +- sqrt(5)) / 2 and sum to 5. The features of the second layer are multiples of a: rank 1.

SHARES = [(5 + sqrt(5)) / 10, (5 - sqrt(5)) / 10]
FIRST_RANKS = {
    "effective_rank": exp(-sum(p * log(p) for p in SHARES)),
    "srank": 2.0,
    "stable_rank": 15 / ((15 + sqrt(125)) / 2),
    "feature_rank": 2.0,
    "approximate_rank": 2.0,
    "numerical_rank": 2.0,
}


@pytest.mark.parametrize("metric", RANK_METRICS)
def test_ranks_by_hand(metric: str) -> None:
    expected = {"": 1.0, "/q/dense_1": FIRST_RANKS[metric], "/q/dense_2": 1.0}
    assert measure(metric, see(INPUTS, q=two_layers())) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("metric", RANK_METRICS)
def test_pooled_rank_is_the_mean_over_parts_of_the_last_layer(metric: str) -> None:
    first = two_layers()
    other = assign(build(widths=[3]), dense_1=([[1.0, 1.0], [0.0, 0.0], [1.0, -1.0]], [0.0, -1.0, 0.0]))
    linear = build(widths=[])
    values = measure(metric, see(INPUTS, q=first, critic=other, linear=linear))
    assert values[""] == pytest.approx((1 + FIRST_RANKS[metric]) / 2, rel=1e-5)
    assert values.keys() == {"", "/q/dense_1", "/q/dense_2", "/critic/dense_1"}


# Norms, by hand


def small(**settings: Any) -> Updater:
    """Weight (3, 4) and bias 7 into one unit, weight 12 and bias -5 out of it."""
    return assign(build(widths=[1], **settings), dense_1=([[3.0, 4.0]], 7.0), head=(12.0, -5.0))


def test_weight_norm_by_hand() -> None:
    # Biases do not count: 5, 12, and the root of 25 + 144.
    assert measure("weight_norm", see(None, q=small())) == pytest.approx({"": 13.0, "/q/dense_1": 5.0, "/q/head": 12.0})


def test_weight_norm_of_two_parts_is_joint() -> None:
    # 13 and 84: 169 + 7056 = 85 squared.
    other = assign(build(widths=[]), head=([[0.0, 84.0]], 1.0))
    values = measure("weight_norm", see(None, actor=small(), critic=other))
    expected = {"": 85.0, "/actor/dense_1": 5.0, "/actor/head": 12.0, "/critic/head": 84.0}
    assert values == pytest.approx(expected)


def test_distance_from_initialisation_by_hand() -> None:
    # The weight moves by (3, 4) and the bias by 12: 13. The head's bias by 84: 85 together.
    part = build(widths=[1])
    with torch.no_grad():
        part.network.tensor(f"{DENSE_1}.weight").add_(torch.tensor([[3.0, 4.0]]))
        part.network.tensor(f"{DENSE_1}.bias").sub_(12.0)
        part.network.tensor(f"{HEAD}.bias").add_(84.0)
    values = measure("distance_from_initialisation", see(None, q=part))
    assert values == pytest.approx({"": 85.0, "/q/dense_1": 13.0, "/q/head": 84.0}, rel=1e-6)


def test_distance_starts_at_zero() -> None:
    assert set(measure("distance_from_initialisation", see(None, q=build(widths=[4, 3]))).values()) == {0.0}


@pytest.mark.parametrize("metric", PARAMETER_METRICS)
@pytest.mark.parametrize("normalisation", ["layer", "batch"])
def test_normalisation_does_not_count(metric: str, normalisation: str) -> None:
    part = build(widths=[3], normalisation=[normalisation])
    before = measure(metric, see(None, q=part))
    with torch.no_grad():
        part.network.tensor("torso.layers.dense_1.norms.0.weight").add_(10.0)
        part.network.tensor("torso.layers.dense_1.norms.0.bias").add_(10.0)
    assert measure(metric, see(None, q=part)) == before


@pytest.mark.parametrize("metric", PARAMETER_METRICS)
def test_norms_need_no_inputs_and_no_hidden_layer(metric: str) -> None:
    part = build(widths=[])
    with torch.no_grad():
        part.network.tensor(f"{HEAD}.weight").add_(1.0)
    values = measure(metric, see(None, q=part))
    assert values.keys() == {"", "/q/head"}
    assert values[""] == values["/q/head"] > 0


# One update, by hand: y = v relu(w x + b) + c with w = 2, v = 3, b = c = 0 at x = 1, and the loss is y.
# Gradients: 2 for v, 1 for c, 3 for w and b. Squares: 5 in the head, 18 in the layer. The step size is 0.5.


@dataclass
class ShiftHead(Intervention):
    """Adds 4 to the head's weight after the step."""

    @torch.no_grad()
    def after_step(self, u: Update) -> Logs:
        u.network.tensor(f"{HEAD}.weight").add_(4.0)
        return {}


def waiting(**settings: Any) -> Updater:
    return assign(build((1,), methods={"shift": ShiftHead}, widths=[1], **settings), dense_1=(2.0, 0.0), head=(3.0, 0.0))


def updated(**settings: Any) -> Updater:
    part = waiting(**settings)
    part.step(part.forward(torch.ones(1, 1)).sum(), None)
    return part


def test_norms_of_an_update_by_hand() -> None:
    views = see(None, q=updated())
    gradient = {"": sqrt(23), "/q/dense_1": sqrt(18), "/q/head": sqrt(5)}
    assert measure("gradient_norm", views) == pytest.approx(gradient)
    assert measure("update_norm", views) == pytest.approx({suffix: value / 2 for suffix, value in gradient.items()})
    assert measure("intervention_update_norm", views) == pytest.approx({"": 4.0, "/q/dense_1": 0.0, "/q/head": 4.0})


def test_clipping_shrinks_the_update_and_not_the_gradient_reported() -> None:
    views = see(None, q=updated(clip=0.1))
    assert measure("gradient_norm", views)[""] == pytest.approx(sqrt(23))
    assert measure("update_norm", views)[""] == pytest.approx(0.05, rel=1e-4)
    assert measure("intervention_update_norm", views)[""] == pytest.approx(4.0)


def test_norms_of_updates_of_two_parts_are_joint() -> None:
    views = see(None, actor=updated(), critic=updated(), waiting=waiting())
    values = measure("gradient_norm", views)
    assert values[""] == pytest.approx(sqrt(46))
    assert {suffix for suffix in values if "waiting" in suffix} == set()
    assert measure("intervention_update_norm", views)[""] == pytest.approx(4 * sqrt(2))


def test_gradient_entries_that_are_zero_by_hand() -> None:
    # Bias -5 silences the unit: of the gradients 0, 0, 0 and 1 (of the head's bias), three are 0. The unit's is 0.
    part = assign(build((1,), widths=[1]), dense_1=(2.0, -5.0), head=(3.0, 0.0))
    part.step(part.forward(torch.ones(1, 1)).sum(), None)
    views = see(None, q=part)
    assert measure("gradient_zero_fraction", views) == pytest.approx({"": 0.75, "/q/dense_1": 1.0, "/q/head": 0.5})
    assert measure("grama_fraction", views) == {"": 1.0, "/q/dense_1": 1.0}
    assert set(measure("gradient_zero_fraction", see(None, q=updated())).values()) == {0.0}


def test_units_with_hardly_any_gradient_by_hand() -> None:
    # Head weights 1, 0.001 and 0: mean |gradient| of the units' weights in these proportions, of mean 1.001 / 3.
    part = assign(build((1,), widths=[3]), dense_1=(1.0, 0.0), head=([[1.0, 0.001, 0.0]], 0.0))
    part.step(part.forward(torch.ones(1, 1)).sum(), None)
    assert measure("grama_fraction", see(None, q=part)) == pytest.approx({"": 2 / 3, "/q/dense_1": 2 / 3})
    scores = grama_scores(part.trace.details["magnitude/dense_1"])
    assert scores.tolist() == pytest.approx([3 / 1.001, 0.003 / 1.001, 0.0])


def test_update_ratio_by_hand() -> None:
    # The update is half the gradient, 23, 18 and 5 squared; the parameters before it are w = 2 and v = 3.
    expected = {"": sqrt(23 / 13) / 2, "/q/dense_1": sqrt(18) / 4, "/q/head": sqrt(5) / 6}
    assert measure("update_ratio", see(None, q=updated())) == pytest.approx(expected)


# Others, by hand


def test_dormancy_of_pre_activations_by_hand() -> None:
    # Mean |z| of the first layer is 1.5, 1 and 1.5: none is dormant. The second has no negative z. The one output counts.
    expected = {"": 3 / 9, "/q/dense_1": 0.0, "/q/dense_2": 3 / 5, "/q/head": 0.0}
    part = assign(two_layers(), head=(1.0, 0.0))
    assert measure("dormant_fraction_drm", see(INPUTS, q=part)) == pytest.approx(expected)


def test_the_outputs_of_a_sequence_are_one_layer_with_a_row_for_each_token() -> None:
    spec = GPTSpec(widths=[4], residual_blocks=1, attention_heads=1, expansion=2)
    builder = PartBuilder(spec, (2,), torch.int64, OptimizerSettings("sgd", 0.5), {}, 0)
    part = builder("q", HeadSpec("classification", 3))
    with torch.no_grad():
        part.network.tensor(f"{HEAD}.bias")[2] = part.network.tensor(f"{HEAD}.weight")[2] = 0.0
    views = see(torch.tensor([[0, 1], [2, 0], [1, 1]]), q=part)
    values = measure("dormant_fraction_drm", views)
    assert values["/q/head"] == pytest.approx(1 / 3)
    assert values[""] == pytest.approx((8 * values["/q/block_1"] + 1) / (8 + 3))


def test_firing_correlation_by_hand() -> None:
    # Units x, -x and y: the first two fire on opposite inputs, the third in every combination with them.
    inputs = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    part = assign(build(widths=[3]), dense_1=([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]], 0.0))
    assert measure("firing_correlation", see(inputs, q=part)) == pytest.approx({"": 1 / 3, "/q/dense_1": 1 / 3}, abs=1e-6)
    values = taken("firing_correlation", see(INPUTS, q=two_layers()))
    assert reason_of(values["/q/dense_1"]) == "fewer than two units fire on some inputs and not on others"


def test_feature_norm_by_hand() -> None:
    # Rows (1, 0, 1), (1, 0, 0), (2, 0, 2) and (2, 0, 0); the second layer is a times the weights.
    row = sqrt(0.005**2 + 0.02**2 + 0.05**2 + 4.925**2)
    expected = {"": 1.5 * row, "/q/dense_1": 3 * (sqrt(2) + 1) / 4, "/q/dense_2": 1.5 * row}
    assert measure("feature_norm", see(INPUTS, q=two_layers())) == pytest.approx(expected, rel=1e-6)


def test_weight_magnitude_by_hand() -> None:
    assert measure("weight_magnitude", see(None, q=small())) == pytest.approx({"": 19 / 3, "/q/dense_1": 3.5, "/q/head": 12.0})


def test_relative_and_rms_distance_by_hand() -> None:
    # From weight (3, 4), bias 12 and head 5, 0 by (3, 4), 0 and 12, 0: distances 5, 12 and 13, norms 13, 5 and sqrt(194).
    part = build(widths=[1])
    assign(part, dense_1=([[3.0, 4.0]], 12.0), head=(5.0, 0.0))
    for name, value in part.network.named_parameters():
        part.initial[name].copy_(value.detach())
    assign(part, dense_1=([[6.0, 8.0]], 12.0), head=(17.0, 0.0))
    relative = {"": 13 / sqrt(194), "/q/dense_1": 5 / 13, "/q/head": 12 / 5}
    assert measure("relative_distance_from_initialisation", see(None, q=part)) == pytest.approx(relative)
    rms = {"": 13 / sqrt(5), "/q/dense_1": 5 / sqrt(3), "/q/head": 12 / sqrt(2)}
    assert measure("rms_distance_from_initialisation", see(None, q=part)) == pytest.approx(rms)


def test_weight_spectra_by_hand() -> None:
    # Singular values 4 and 3 in the layer, and 2 in the head.
    part = assign(build(widths=[2]), dense_1=([[0.0, 3.0], [4.0, 0.0]], 0.0), head=([[2.0, 0.0]], 0.0))
    views = see(None, q=part)
    assert measure("weight_spectral_norm", views) == pytest.approx({"": 4.0, "/q/dense_1": 4.0, "/q/head": 2.0})
    assert measure("weight_condition_number", views) == pytest.approx({"": 4 / 3, "/q/dense_1": 4 / 3, "/q/head": 1.0})
    stable = {"": (25 / 16 + 1) / 2, "/q/dense_1": 25 / 16, "/q/head": 1.0}
    assert measure("weight_stable_rank", views) == pytest.approx(stable)
    deviation = {"": 15**2 + 8**2 + 3**2, "/q/dense_1": 15**2 + 8**2, "/q/head": 3**2}
    assert measure("weight_deviation_from_isometry", views) == pytest.approx(deviation)


def test_singular_weights_have_no_condition_number() -> None:
    part = assign(build(widths=[2]), dense_1=([[1.0, 1.0], [1.0, 1.0]], 0.0))
    values = taken("weight_condition_number", see(None, q=part))
    assert reason_of(values[""]) == reason_of(values["/q/dense_1"]) == "the weights are singular"


def test_units_of_a_residual_stream_are_shown_and_not_pooled() -> None:
    part = build((4,), torso="simba", widths=[6])
    inputs = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    views = see(inputs, q=part)
    assert views[0].layers[-1].name == "stream"
    values = measure("dormant_fraction_tau_0.1", views)
    assert values.keys() == {"", "/q/stream", *(f"/q/{name}" for name in part.network.units.names)}
    own = [layer.scores for layer in views[0].layers if layer.pooled]
    assert values[""] == pytest.approx(float((torch.cat(own) <= 0.1).float().mean()))
    assert reason_of(taken("firing_rate", views)["/q/stream"]) == "identity has no firing threshold"
    ranks = measure("effective_rank", views)  # the head reads the stream
    assert ranks[""] == ranks["/q/stream"]


# What cannot be measured


def reason_of(value: Tensor | float) -> str:
    assert isinstance(value, Undefined)
    return value.reason


@pytest.mark.parametrize("metric", UPDATE_METRICS)
def test_no_update_traced(metric: str) -> None:
    values = taken(metric, see(INPUTS, q=two_layers()))
    assert values.keys() == {""}
    assert reason_of(values[""]) == "no update has been traced yet"


@pytest.mark.parametrize("metric", UNIT_METRICS + RANK_METRICS)
@pytest.mark.parametrize(
    ("widths", "inputs", "reason"),
    [([], INPUTS, "the network has no hidden layer"), ([3], None, "there are no inputs yet")],
)
def test_no_activations(metric: str, widths: list[int], inputs: Tensor | None, reason: str) -> None:
    values = taken(metric, see(inputs, q=build(widths=widths)))
    assert values.keys() == {""}
    assert reason_of(values[""]) == reason


@pytest.mark.parametrize(
    ("metric", "activation", "reason"),
    [
        ("firing_rate", "tanh", "tanh has no firing threshold"),
        ("firing_entropy", "tanh", "tanh has no firing threshold"),
        ("firing_rate", "identity", "identity has no firing threshold"),
        ("linearised_fraction", "tanh", "tanh has no linear side"),
        ("linearised_fraction_0.95", "sigmoid", "sigmoid has no linear side"),
        ("linearised_fraction", "rational", "rational has no linear side"),
        ("linearised_fraction", "identity", "identity has no linear side"),
    ],
)
def test_activations_without_the_property(metric: str, activation: str, reason: str) -> None:
    everywhere = taken(metric, see(INPUTS, q=two_layers(activations=[activation])))
    assert {reason_of(value) for value in everywhere.values()} == {reason}
    assert everywhere.keys() == {"", "/q/dense_1", "/q/dense_2"}
    mixed = taken(metric, see(INPUTS, q=two_layers(activations=["relu", activation])))
    assert reason_of(mixed["/q/dense_2"]) == reason
    assert float(mixed[""]) == float(mixed["/q/dense_1"]) == pytest.approx(BY_HAND[metric][1])


def test_rates_of_a_layer() -> None:
    relu, tanh = view_part("q", two_layers(activations=["relu", "tanh"]), INPUTS).layers
    known = relu.rates
    assert not isinstance(known, Undefined)
    assert known.tolist() == [1.0, 0.0, 0.5]
    assert isinstance(tanh.rates, Undefined)


@pytest.mark.parametrize("metric", RANK_METRICS)
def test_rank_of_features_that_are_all_zero(metric: str) -> None:
    dead = assign(two_layers(), dense_2=(0.0, -1.0))
    values = taken(metric, see(INPUTS, q=dead, critic=two_layers()))
    assert reason_of(values[""]) == reason_of(values["/q/dense_2"]) == "all features are zero"
    assert float(values["/q/dense_1"]) == pytest.approx(FIRST_RANKS[metric], rel=1e-5)


def test_units_that_are_all_zero_are_counted() -> None:
    views = see(INPUTS, q=assign(two_layers(), dense_2=(0.0, -1.0)))
    values = {name: measure(name, views)["/q/dense_2"] for name in UNIT_METRICS}
    idle = ("linearised", "firing", "active")
    assert values == {name: 0.0 if name.startswith(idle) else 1.0 for name in UNIT_METRICS}


@pytest.mark.parametrize("metric", UNIT_METRICS + RANK_METRICS)
def test_overflow_is_not_counted_as_zero(metric: str) -> None:
    # Unit a is infinite in the first row, and with it the second layer.
    inputs = torch.cat([torch.tensor([[3e38, 3e38]]), INPUTS])
    values = taken(metric, see(inputs, q=two_layers(), critic=assign(build(widths=[1]), dense_1=(0.0, 1.0))))
    for suffix in ("", "/q/dense_1", "/q/dense_2"):
        assert reason_of(values[suffix]).endswith("are not finite")
    assert not isnan(float(values["/critic/dense_1"]))


# Every entry

RANDOM = {
    "mlp": MLPSpec(widths=[12, 6]),
    "crelu": MLPSpec(widths=[5, 3], activations=["crelu"]),
    "leaky_and_abs": MLPSpec(widths=[12, 6], activations=["leaky_relu", "abs"], normalisation=["layer"]),
    "gelu_and_tanh": MLPSpec(widths=[12, 6], activations=["gelu", "tanh"]),
    "conv": ConvSpec(widths=[5], channels=[3, 4], normalisation=["batch"], load_balancing=LoadBalancingSpec()),
}


def limits(name: str, view: PartView, suffix: str) -> tuple[float, float]:
    """The stated range as numbers."""
    layers = {f"/q/{layer.name}": layer for layer in view.layers} | {"": view.layers[-1]}
    stated = {"0 to 1": (0.0, 1.0), "0 and up": (0.0, inf)}
    if CATALOGUE[name].range in ("0 to features", "1 to features"):
        return float(CATALOGUE[name].range[0]), float(layers[suffix].post[0].numel())
    return stated[CATALOGUE[name].range]


@pytest.mark.parametrize("kind", RANDOM)
@pytest.mark.parametrize("seed", [0, 1])
def test_values_lie_in_the_stated_range(kind: str, seed: int) -> None:
    shape = (2, 7, 6) if kind == "conv" else (4,)
    settings = OptimizerSettings(learning_rate=0.1)
    part = PartBuilder(RANDOM[kind], shape, torch.float32, settings, seed=seed)("q", HeadSpec("regression", 3))
    inputs = torch.randn(40, *shape, generator=torch.Generator().manual_seed(seed))
    part.step(part.forward(inputs).square().mean(), None)
    view = view_part("q", part, inputs)
    layers = {f"/q/{layer.name}" for layer in view.layers}
    for name in [*UNIT_METRICS, *RANK_METRICS, *PARAMETER_METRICS, *UPDATE_METRICS]:
        values = taken(name, [view])
        activity = name in UNIT_METRICS + RANK_METRICS
        assert values.keys() == {"", *layers} | (set() if activity or name == "grama_fraction" else {"/q/head"}), name
        for suffix, value in values.items():
            low, high = limits(name, view, suffix)
            assert isinstance(value, Undefined) or low <= float(value) <= high, (name, suffix)
        if kind == "mlp":
            assert not any(isinstance(value, Undefined) for value in values.values())


def test_every_entry_is_tested_here() -> None:
    assert set(CATALOGUE) == {*UNIT_METRICS, *RANK_METRICS, *PARAMETER_METRICS, *UPDATE_METRICS, *OTHERS}


def test_groups() -> None:
    assert list(chosen([])) == list(chosen(["default"])) == list(groups()["default"])
    assert list(chosen(["all"])) == list(CATALOGUE)
    assert list(chosen(["sharpness", "default"]))[:2] == ["sharpness", "dormant_fraction"]
    costly = {
        "sharpness",
        "hessian_trace",
        "hessian_effective_rank",
        "gradient_cosine",
        "ntk_effective_rank",
        "feature_drift",
        "weight_spectral_norm",
    }
    assert costly.isdisjoint(groups()["default"])


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_entry_says_what_it_is(name: str) -> None:
    metric = CATALOGUE[name]
    for text in (metric.description, metric.range, metric.direction, metric.cost):
        assert text.strip()
        assert text == text.strip()
        assert "\n" not in text
    assert metric.description.endswith(".")
    ranges = {"0 to 1", "-1 to 1", "0 to features", "1 to features", "1 to examples", "0 and up", "1 and up", "any number"}
    assert metric.range in ranges
