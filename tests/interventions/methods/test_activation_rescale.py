from typing import Any

import pytest
import torch

from plasticity.agents.parts import PartBuilder
from plasticity.interventions.methods.activation_rescale import FOR_RELU, FOR_TANH, ActivationRescale, Rescaling, rescaling_of
from plasticity.networks.spec import HeadSpec
from plasticity.networks.torsos.feedforward import MLPSpec
from plasticity.optimizers.factory import OptimizerSettings


@pytest.mark.parametrize(
    ("strategy", "relu", "tanh"),
    [
        ("per_activation", FOR_RELU, FOR_TANH),
        ("opposite", FOR_TANH, FOR_RELU),
        ("relu", FOR_RELU, FOR_RELU),
        ("tanh", FOR_TANH, FOR_TANH),
    ],
)
def test_strategies(strategy: str, relu: Rescaling, tanh: Rescaling) -> None:
    assert rescaling_of(strategy, "relu") == rescaling_of(strategy, "crelu") == relu
    assert rescaling_of(strategy, "tanh") == tanh


def test_the_published_numbers() -> None:
    assert FOR_RELU == (-0.5, 0.5, 1e-4, 1e-5)
    assert FOR_TANH == (0.5, 0.2, 1e-5, 1e-6)


def constant_part(activations: list[str], **settings: Any) -> Any:
    """Layers of four units with constant pre-activations, their biases 1, 2, -3, 0.5; weights are 1, and nothing trains."""
    methods = {"method": lambda: ActivationRescale(**settings)}
    spec = MLPSpec(widths=[4] * len(activations), activations=activations)
    part = PartBuilder(spec, (2,), torch.float32, OptimizerSettings("sgd", 0.0), methods)("q", HeadSpec("q", 1))
    with torch.no_grad():
        for layer in part.network.units.layers:
            part.network.tensor(layer.weight.tensor).fill_(1.0)
            part.network.tensor(layer.bias.tensor).copy_(torch.tensor([1.0, 2.0, -3.0, 0.5]))
    return part


def biases(part: Any, layer: str = "dense_1") -> list[float]:
    return part.network.tensor(f"torso.layers.{layer}.linear.bias").tolist()


@pytest.mark.parametrize(("activation", "low", "high"), [("relu", -0.5, 0.5), ("tanh", 0.5, 0.2)])
def test_lowest_and_highest_by_hand(activation: str, low: float, high: float) -> None:
    part = constant_part([activation], low_rate=[0.25], high_rate=[0.25], maturity_updates=0)
    weight = part.network.tensor("torso.layers.dense_1.linear.weight")
    logs = part.step(part.forward(torch.zeros(3, 2)).sum(), None)
    # One of four is due as the lowest, unit 2; a quarter of the other three is not yet one.
    assert biases(part) == [1.0, 2.0, -3.0 * low, 0.5]
    assert weight.tolist() == [[1.0, 1.0], [1.0, 1.0], [low, low], [1.0, 1.0]]
    assert int(logs["method/units_rescaled"]) == 1
    # Then 0.75 + 0.75 make one as the highest: unit 1, as unit 2 (1.5 or -1.5 now) counts from the second update on.
    part.step(part.forward(torch.zeros(3, 2)).sum(), None)
    assert biases(part)[1] == pytest.approx(2.0 * high)


def test_a_dead_relu_comes_to_fire() -> None:
    part = constant_part(["relu"], low_rate=[0.25], high_rate=[0.0], maturity_updates=0)
    assert part.network.features(torch.zeros(1, 2))[0, 2] == 0
    part.step(part.forward(torch.zeros(3, 2)).sum(), None)
    assert part.network.features(torch.zeros(1, 2))[0, 2] == 1.5


def test_numbers_by_layer_and_overridden() -> None:
    part = constant_part(["relu", "tanh"], low_rate=[0.25], high_rate=[0.0], high_scale=[0.9], maturity_updates=0)
    method = part.interventions["method"]
    assert isinstance(method, ActivationRescale)
    assert method._rescalings == [(-0.5, 0.9, 0.25, 0.0), (0.5, 0.9, 0.25, 0.0)]
    assert constant_part(["relu", "tanh"], strategy="opposite").interventions["method"]._rescalings == [FOR_TANH, FOR_RELU]


def test_numbers_for_each_layer() -> None:
    part = constant_part(["relu", "tanh"], low_rate=[0.1, 0.2], high_scale=[0.7])
    assert part.interventions["method"]._rescalings == [(-0.5, 0.7, 0.1, 1e-5), (0.5, 0.7, 0.2, 1e-6)]
    with pytest.raises(ValueError, match=r"activation_rescale\.low_rate has 3 entries; give none, 1 or 2, one for each layer"):
        constant_part(["relu", "tanh"], low_rate=[0.1, 0.2, 0.3])


def test_bias_may_stay_and_weights_may_be_clamped() -> None:
    part = constant_part(["relu"], low_rate=[0.25], high_rate=[0.0], maturity_updates=0, scale_bias=False, clamp=1.75)
    part.step(part.forward(torch.zeros(3, 2)).sum(), None)
    assert biases(part) == [1.0, 1.75, -1.75, 0.5]
    assert part.network.tensor("torso.layers.dense_1.linear.weight")[2].tolist() == [-0.5, -0.5]


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_against_loops(trained: Any, layout: str, optimizer: str) -> None:
    numbers = Rescaling(-0.5, 0.3, 0.11, 0.07)
    state = "zero" if optimizer == "adam" else "restart"
    pair = trained(
        layout,
        lambda: ActivationRescale(
            **{name: [value] for name, value in numbers._asdict().items()}, maturity_updates=2, decay=0.9, optimizer_state=state
        ),
        optimizer,
    )
    units = {layer.name: [{"mean": 0.0, "age": 0} for _ in range(layer.units)] for layer in pair.layers}
    carried = {(layer.name, kind): 0.0 for layer in pair.layers for kind in ("low", "high")}
    scaled = {"low": 0, "high": 0}
    for step in range(1, 16):
        logs = pair.update(step)
        expected = {name: value.detach().clone() for name, value in pair.twin.network.named_parameters()}
        cleared = {name: torch.zeros(value.shape, dtype=torch.bool) for name, value in expected.items()}
        count = 0
        for layer in pair.layers:
            own = units[layer.name]
            for index, unit in enumerate(own):
                unit["mean"] = 0.9 * unit["mean"] + 0.1 * pair.activity(layer, index, magnitude=False)
                unit["age"] += 1
            for kind, rate, scale in (("low", 0.11, -0.5), ("high", 0.07, 0.3)):
                mature = [index for index, unit in enumerate(own) if unit["age"] > 2]
                carried[layer.name, kind] += rate * len(mature)
                while carried[layer.name, kind] + 1e-9 >= 1:
                    carried[layer.name, kind] -= 1
                    mature = [index for index, unit in enumerate(own) if unit["age"] > 2]
                    corrected = {index: own[index]["mean"] / (1 - 0.9 ** own[index]["age"]) for index in mature}
                    chosen = (min if kind == "low" else max)(corrected, key=lambda index: corrected[index])
                    own[chosen] = {"mean": 0.0, "age": 0}
                    for slice_ in (*layer.weights, *layer.biases):
                        expected[slice_.tensor][chosen] *= scale
                        cleared[slice_.tensor][chosen] = True
                    scaled[kind] += 1
                    count += 1
        assert int(logs["method/units_rescaled"]) == count
        for name, value in pair.part.network.named_parameters():
            torch.testing.assert_close(value.detach(), expected[name], rtol=1e-6, atol=0)
            moments, twins = (part.optimizer.state.get(part.network.tensor(name), {}) for part in (pair.part, pair.twin))
            for moment in ("exp_avg", "exp_avg_sq", "momentum_buffer"):
                if moment in moments:
                    assert torch.equal(moments[moment], twins[moment].masked_fill(cleared[name], 0.0))
        method = pair.method.state_dict()
        means = [unit["mean"] for own in units.values() for unit in own]
        halves = [
            half.view(layer.copies, -1).mean(0)
            for layer, half in zip(pair.layers, method["mean"].split([la.units * la.copies for la in pair.layers]), strict=True)
        ]
        assert torch.cat(halves).tolist() == pytest.approx(means, rel=1e-4, abs=1e-6)
        assert (step - method["scaled_at"]).tolist() == [unit["age"] for own in units.values() for unit in own]
        assert method["low_carried"] == pytest.approx([carried[layer.name, "low"] for layer in pair.layers], abs=1e-6)
        assert method["high_carried"] == pytest.approx([carried[layer.name, "high"] for layer in pair.layers], abs=1e-6)
    assert min(scaled.values()) >= 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"strategy": "sigmoid"}, r"strategy=sigmoid is unknown; choose from per_activation, relu, tanh, opposite"),
        ({"low_rate": [2.0]}, r"activation_rescale\.low_rate=2\.0 must be between 0 and 1"),
        ({"high_rate": [0.0, -0.1]}, r"activation_rescale\.high_rate=-0\.1 must be between 0 and 1"),
        ({"clamp": -1.0}, r"activation_rescale\.clamp=-1\.0 must be at least 0"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ActivationRescale(**settings)
