"""Methods that decide what the network is made of: the specification that each of them builds."""

from typing import Any

import pytest

from plasticity.interventions.methods.activation_swap import ActivationSwap
from plasticity.interventions.methods.batch_norm import BatchNorm
from plasticity.interventions.methods.layer_norm import LayerNorm
from plasticity.interventions.methods.partial_norm import PartialNorm
from plasticity.interventions.methods.spectral_norm import SpectralNorm
from plasticity.networks.torsos.feedforward import ConvSpec, MLPSpec

SPEC = MLPSpec(widths=[8, 6])


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        (BatchNorm(), ["batch"]),
        (BatchNorm(affine=False), ["batch_non_affine"]),
        (PartialNorm(), ["batch_mean", "layer_std"]),
        (PartialNorm(moments=["layer_std"]), ["layer_std"]),
    ],
    ids=str,
)
def test_normalisation_of_every_layer(method: Any, expected: list[str]) -> None:
    assert method.build(SPEC).normalisation == expected
    assert SPEC.normalisation == []


def test_layer_comes_before_batch_in_either_order() -> None:
    assert LayerNorm().build(BatchNorm().build(SPEC)).normalisation == ["layer", "batch"]
    assert BatchNorm().build(LayerNorm().build(SPEC)).normalisation == ["layer", "batch"]


def test_a_second_batch_normalisation_is_refused() -> None:
    with pytest.raises(ValueError, match=r"batch_norm would be a second one: network.normalisation=\['batch'\]"):
        BatchNorm().build(BatchNorm().build(SPEC))


@pytest.mark.parametrize(
    ("settings", "widths"),
    [
        ({"activation": "crelu"}, [4, 3]),
        ({"activation": "fourier"}, [4, 3]),
        ({"activation": "crelu", "keep_features": False}, [8, 6]),
        ({"activation": "leaky_relu"}, [8, 6]),
    ],
    ids=str,
)
def test_activations_of_two_outputs_keep_the_number_of_features(settings: dict[str, Any], widths: list[int]) -> None:
    built = ActivationSwap(**settings).build(SPEC)
    assert (built.activations, built.widths) == ([settings["activation"]], widths)


def test_convolutions_are_halved_too() -> None:
    built = ActivationSwap().build(ConvSpec(widths=[6], channels=[4, 2]))
    assert (built.channels, built.widths) == ([2, 1], [3])


def test_odd_layers_cannot_be_halved() -> None:
    with pytest.raises(ValueError, match="keep_features=true halves the units of every layer, but one has 5"):
        ActivationSwap().build(MLPSpec(widths=[8, 5]))


def test_the_offset_is_part_of_the_specification() -> None:
    assert ActivationSwap(activation="relu", offset=-1.0).build(SPEC).activation_offset == -1.0


def test_spectral_normalisation_names_layers() -> None:
    assert SpectralNorm().build(SPEC).spectral_layers == [-1]
    assert SpectralNorm(layers=[1, 2]).build(SPEC).spectral_layers == [1, 2]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ActivationSwap(activation="rleu"), "network.activations=rleu is unknown"),
        (
            lambda: PartialNorm(moments=["batch"]),
            r"partial_norm.moments=batch is unknown \(did you mean \w+\?\); choose from layer_mean",
        ),
    ],
)
def test_mistakes_are_named(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
