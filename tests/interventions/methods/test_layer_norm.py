import pytest
import torch
from torch import Tensor
from torch.nn import functional

from plasticity.agents.parts import PartBuilder
from plasticity.interventions.methods.layer_norm import LayerNorm
from plasticity.networks.spec import HeadSpec, NetworkSpec
from plasticity.networks.torsos.feedforward import ConvSpec, MLPSpec
from plasticity.optimizers.factory import OptimizerSettings
from plasticity.updates.updater import Updater


def build(spec: NetworkSpec, inputs: tuple[int, ...], affine: bool | None = True) -> Updater:
    methods = {} if affine is None else {"layer_norm": lambda: LayerNorm(affine)}
    return PartBuilder(spec, inputs, torch.float32, OptimizerSettings(learning_rate=0.01), methods)("q", HeadSpec("q", 2))


def normalised(z: list[float]) -> list[float]:
    """Subtracts the mean and divides by the root of the (biased) variance plus 1e-5, with plain loops."""
    mean = sum(z) / len(z)
    variance = sum((value - mean) ** 2 for value in z) / len(z)
    return [(value - mean) / (variance + 1e-5) ** 0.5 for value in z]


def test_pre_activations_by_hand() -> None:
    # z = W x with W = rows 1, 2, 3, 6 and x = 1: mean 3, deviations -2 -1 0 3, variance 14/4 = 3.5.
    part = build(MLPSpec(widths=[4]), (1,))
    with torch.no_grad():
        part.network.tensor("torso.layers.dense_1.linear.weight").copy_(torch.tensor([[1.0], [2.0], [3.0], [6.0]]))
        part.network.tensor("torso.layers.dense_1.linear.bias").zero_()
    with part.network.taps.record():
        part.forward(torch.ones(1, 1))
    root = (3.5 + 1e-5) ** 0.5
    assert part.network.taps.pre["dense_1"][0].tolist() == pytest.approx([-2 / root, -1 / root, 0.0, 3 / root], abs=1e-6)
    assert part.network.taps.post["dense_1"][0].tolist() == pytest.approx([0.0, 0.0, 0.0, 3 / root], abs=1e-6)


@pytest.mark.parametrize("affine", [True, False])
def test_every_hidden_layer_is_normalised_and_the_output_is_not(affine: bool) -> None:
    spec = ConvSpec(widths=[4], channels=[3], paddings=[1])
    part = build(spec, (1, 4, 4), affine)
    images = torch.randn(5, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    with part.network.taps.record():
        outputs = part.forward(images)
    values = {name: value.detach() for name, value in part.network.named_parameters()}
    convolved = functional.conv2d(
        images, values["torso.layers.conv_1.linear.weight"], values["torso.layers.conv_1.linear.bias"], padding=1
    )
    # A convolution's statistics run over channels and positions of one example.
    expected = torch.tensor([normalised(example.flatten().tolist()) for example in convolved]).view_as(convolved)
    torch.testing.assert_close(part.network.taps.pre["conv_1"], expected, rtol=1e-4, atol=1e-5)
    hidden = functional.linear(
        expected.relu().flatten(1), values["torso.layers.dense_1.linear.weight"], values["torso.layers.dense_1.linear.bias"]
    )
    expected = torch.tensor([normalised(example.tolist()) for example in hidden])
    torch.testing.assert_close(part.network.taps.pre["dense_1"], expected, rtol=1e-4, atol=1e-4)
    plain = functional.linear(expected.relu(), values["head.linear.weight"], values["head.linear.bias"])
    torch.testing.assert_close(outputs, plain, rtol=1e-3, atol=1e-4)


def test_gain_and_offset_are_one_per_unit_and_trained() -> None:
    part = build(ConvSpec(widths=[4], channels=[3]), (1, 4, 4))
    names = part.network.norm_parameters
    assert names == {f"torso.layers.{layer}.norms.0.{kind}" for layer in ("conv_1", "dense_1") for kind in ("weight", "bias")}
    assert {name: tuple(part.network.tensor(name).shape) for name in sorted(names)} == {
        "torso.layers.conv_1.norms.0.bias": (3,),
        "torso.layers.conv_1.norms.0.weight": (3,),
        "torso.layers.dense_1.norms.0.bias": (4,),
        "torso.layers.dense_1.norms.0.weight": (4,),
    }
    before = {name: part.network.tensor(name).clone() for name in names}
    part.step(part.forward(torch.randn(8, 1, 4, 4)).square().sum(), None)
    assert all(not torch.equal(part.network.tensor(name), value) for name, value in before.items())


def test_without_affine_there_are_no_parameters() -> None:
    part = build(MLPSpec(widths=[4]), (3,), affine=False)
    assert part.network.norm_parameters == frozenset()
    assert part.network.spec.normalisation == ["layer_non_affine"]


def test_other_tensors_start_as_without_it() -> None:
    def initial(affine: bool | None) -> dict[str, Tensor]:
        return dict(build(MLPSpec(widths=[4, 5]), (3,), affine).network.named_parameters())

    plain, treated = initial(None), initial(True)
    assert set(treated) > set(plain)
    assert all(torch.equal(value, treated[name]) for name, value in plain.items())


def test_scale_of_the_incoming_weights_no_longer_matters() -> None:
    part = build(MLPSpec(widths=[6]), (3,))
    inputs = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        part.network.tensor("torso.layers.dense_1.linear.bias").zero_()
        before = part.predict(inputs)
        part.network.tensor("torso.layers.dense_1.linear.weight").mul_(100.0)
    torch.testing.assert_close(part.predict(inputs), before, rtol=1e-2, atol=1e-3)


def test_it_goes_in_front_of_a_batch_norm_and_is_no_second_one() -> None:
    assert LayerNorm().build(MLPSpec(normalisation=["batch"])).normalisation == ["layer", "batch"]
    assert LayerNorm(affine=False).build(MLPSpec()).normalisation == ["layer_non_affine"]
    with pytest.raises(ValueError, match=r"layer_norm would be a second one: network\.normalisation=\['layer'\]"):
        LayerNorm().build(MLPSpec(normalisation=["layer"]))
