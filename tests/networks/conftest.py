"""Small networks of every kind the factory makes, for the tests of this folder."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from plasticity.networks.factory import build_network
from plasticity.networks.layers.dropout import draw, dropout_layers
from plasticity.networks.network import Network
from plasticity.networks.registry import TORSOS
from plasticity.networks.spec import HeadSpec, LoadBalancingSpec, NetworkSpec
from plasticity.networks.torsos.feedforward import ConvSpec, MLPSpec, NatureCNNSpec
from plasticity.networks.torsos.hyperspherical import SimbaV2Spec
from plasticity.networks.torsos.residual import SimbaSpec
from plasticity.networks.torsos.resnet import ResNetSpec
from plasticity.networks.torsos.transformer import GPTSpec, ViTSpec

BALANCE = LoadBalancingSpec()
REGRESSION = HeadSpec("regression", 3)


@dataclass(frozen=True)
class Case:
    spec: NetworkSpec
    input_shape: tuple[int, ...]
    head: HeadSpec = REGRESSION
    dtype: torch.dtype = torch.float32
    members: int = 1

    def build(self, seed: int = 0) -> Network:
        network = build_network(self.spec, self.input_shape, self.dtype, self.head, seed, self.members)
        if layers := dropout_layers(network):
            draw(layers, torch.Generator().manual_seed(seed))
        return network

    def inputs(self, count: int = 6, seed: int = 0) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        if self.dtype == torch.int64:
            return torch.randint(0, self.head.outputs, (count, *self.input_shape), generator=generator)
        if self.dtype == torch.uint8:
            return torch.randint(0, 256, (count, *self.input_shape), generator=generator, dtype=torch.uint8)
        return torch.randn(count, *self.input_shape, generator=generator)


CATEGORICAL = HeadSpec("categorical", 1, bins=5, low=-1.0, high=1.0)
TWO_CONVOLUTIONS = ConvSpec(widths=[], channels=[3, 4], kernel_sizes=[3, 2])
CASES = {
    "mlp": Case(MLPSpec(widths=[5, 4]), (3,)),
    "mlp_of_images": Case(MLPSpec(widths=[5]), (2, 3, 3)),
    "mlp_mixed_activations": Case(MLPSpec(widths=[5, 4, 3], activations=["tanh", "crelu", "gelu"]), (3,)),
    "mlp_batch_norm": Case(MLPSpec(widths=[5, 4], normalisation=["batch"]), (3,)),
    "mlp_load_balancing": Case(MLPSpec(widths=[5, 4], load_balancing=BALANCE), (3,)),
    "conv_conv_head": Case(TWO_CONVOLUTIONS, (2, 7, 8)),
    "conv_pool_flatten_dense": Case(ConvSpec(widths=[5], channels=[3, 4], pools=[2, 2]), (2, 11, 12)),
    "conv_padded": Case(ConvSpec(widths=[5], channels=[3, 4], strides=[2, 1], paddings=[1]), (2, 7, 6)),
    "crelu_dense": Case(MLPSpec(widths=[5, 4], activations=["crelu"]), (3,)),
    "crelu_conv_flatten_dense": Case(ConvSpec(widths=[5], channels=[3, 2], pools=[1, 2], activations=["crelu"]), (2, 8, 9)),
    "conv_batch_norm_load_balancing": Case(
        ConvSpec(widths=[5], channels=[3], normalisation=["batch"], load_balancing=BALANCE), (2, 6, 5)
    ),
    "two_hot": Case(MLPSpec(widths=[5]), (3,), HeadSpec("categorical", 2, bins=5, low=-1.0, high=1.0)),
    "gaussian": Case(MLPSpec(widths=[5, 4]), (3,), HeadSpec("gaussian", 2)),
    "squashed_gaussian": Case(MLPSpec(widths=[5, 4]), (3,), HeadSpec("squashed_gaussian", 2)),
    "paired": Case(MLPSpec(widths=[5, 4]), (3,), HeadSpec("policy", 3, gain=0.01, second=HeadSpec("value", 1))),
    "paired_conv": Case(TWO_CONVOLUTIONS, (2, 7, 8), HeadSpec("gaussian", 2, second=CATEGORICAL)),
    "paired_crelu": Case(MLPSpec(widths=[5, 4], activations=["crelu"]), (3,), HeadSpec("gaussian", 2, second=CATEGORICAL)),
    "dueling": Case(MLPSpec(widths=[5]), (3,), HeadSpec("q", 3, dueling=True, stream_widths=(4, 3))),
    "dueling_without_hidden": Case(MLPSpec(widths=[5, 4]), (3,), HeadSpec("q", 3, dueling=True)),
    "dueling_categorical_conv": Case(
        TWO_CONVOLUTIONS, (2, 7, 8), HeadSpec("categorical", 3, 5, -1.0, 1.0, dueling=True, stream_widths=(4,))
    ),
    "dueling_crelu_batch_norm": Case(
        MLPSpec(widths=[5], activations=["crelu"], normalisation=["batch"]),
        (3,),
        HeadSpec("q", 2, dueling=True, stream_widths=(4,)),
    ),
    "noisy": Case(MLPSpec(widths=[5, 4]), (3,), HeadSpec("q", 3, noise_deviation=0.5)),
    "noisy_dueling": Case(
        ConvSpec(widths=[], channels=[3]), (2, 6, 5), HeadSpec("q", 3, dueling=True, stream_widths=(4,), noise_deviation=0.5)
    ),
    "normalised_in_part": Case(MLPSpec(widths=[5, 4, 3], normalisation=["batch"], normalised_layers=[1, 3]), (3,)),
    "batch_moments": Case(MLPSpec(widths=[5, 4], normalisation=["batch_mean", "batch_std"]), (3,)),
    "batch_moments_conv": Case(ConvSpec(widths=[5], channels=[3], normalisation=["batch_std"]), (2, 6, 5)),
    "learned_activations": Case(MLPSpec(widths=[5, 4, 3], activations=["pelu", "rational", "fourier"]), (3,)),
    "pelu_conv": Case(ConvSpec(widths=[5], channels=[3, 2], activations=["pelu"], activation_offset=0.5), (2, 8, 9)),
    "simba": Case(SimbaSpec(widths=[4], expansion=2), (3,)),
    "simba_v2": Case(SimbaV2Spec(widths=[4], expansion=2), (3,)),
    "simba_v2_ensemble_crelu": Case(
        SimbaV2Spec(widths=[4], residual_blocks=1, activations=["crelu"]), (3,), HeadSpec("value", 1), members=2
    ),
    "simba_ensemble": Case(SimbaSpec(widths=[4], residual_blocks=1), (3,), HeadSpec("value", 1), members=2),
    "resnet": Case(
        ResNetSpec(widths=[], channels=[3, 4], residual_blocks=1, normalisation=["batch"], normalised_skip=True), (2, 6, 5)
    ),
    "resnet_plain": Case(
        ResNetSpec(widths=[], channels=[3], residual_blocks=2, load_balancing=BALANCE, convolution_biases=False), (2, 5, 5)
    ),
    "diagonal": Case(MLPSpec(widths=[5, 4], diagonal=True, normalisation=["batch"], activations=["relu", "crelu"]), (3,)),
    "diagonal_resnet": Case(ResNetSpec(widths=[], channels=[3, 4], residual_blocks=1, diagonal=True), (2, 6, 5)),
    "dropout": Case(MLPSpec(widths=[5, 4, 3], dropout_rates=[0.3, 0.0, 0.6]), (3,)),
    "dropout_conv_crelu_dueling": Case(
        ConvSpec(widths=[5], channels=[3], pools=[2], activations=["crelu"], dropout_rates=[0.3, 0.5]),
        (2, 8, 9),
        HeadSpec("q", 2, dueling=True, stream_widths=(4,)),
    ),
    "dropout_resnet": Case(ResNetSpec(widths=[], channels=[3], residual_blocks=2, dropout_rates=[0.5]), (2, 5, 5)),
    "dropout_ensemble": Case(SimbaSpec(widths=[4], dropout_rates=[0.5]), (3,), HeadSpec("value", 1), members=2),
    "vit": Case(ViTSpec(widths=[4], residual_blocks=2, patch_size=2), (2, 4, 6)),
    "gpt": Case(GPTSpec(widths=[4], residual_blocks=2, expansion=2), (5,), HeadSpec("classification", 7), torch.int64),
    "ensemble_noisy": Case(MLPSpec(widths=[5]), (3,), HeadSpec("value", 1, noise_deviation=0.5), members=2),
    "ensemble": Case(MLPSpec(widths=[5, 4]), (3,), HeadSpec("value", 1), members=2),
    "ensemble_batch_norm_crelu": Case(
        MLPSpec(widths=[5, 4], normalisation=["batch"], activations=["crelu"]), (3,), CATEGORICAL, members=2
    ),
    "ensemble_conv": Case(TWO_CONVOLUTIONS, (2, 7, 8), HeadSpec("value", 1), members=3),
    "nature_cnn": Case(NatureCNNSpec(widths=[512]), (4, 84, 84), HeadSpec("q", 6), torch.uint8),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    """One network after the other, of every kind."""
    return CASES[request.param]


@pytest.fixture
def cases() -> dict[str, Case]:
    """All of them by name."""
    return CASES


@pytest.fixture
def build() -> Callable[..., Network]:
    """Builds a network from settings of its spec."""

    def make(
        input_shape: tuple[int, ...] = (3,), head: HeadSpec = REGRESSION, seed: int = 0, torso: str = "mlp", **settings: Any
    ) -> Network:
        return build_network(TORSOS.named(torso)(**settings), input_shape, torch.float32, head, seed)

    return make
