import re
from collections.abc import Callable

import pytest

from plasticity.networks.heads.output_heads import build_head
from plasticity.networks.layers.activations import activation_named
from plasticity.networks.layers.initialisers import initialisers_for
from plasticity.networks.layers.normalisation import build_normalisation
from plasticity.networks.network import Network
from plasticity.networks.spec import HeadSpec, LoadBalancingSpec
from plasticity.networks.torsos.feedforward import ConvSpec, MLPSpec
from plasticity.settings.fields import require_choice, require_range

Build = Callable[..., Network]


def test_an_unknown_choice_is_named_with_the_choices() -> None:
    with pytest.raises(ValueError, match=r"^colour=grue is unknown \(did you mean green\?\); choose from green, blue$"):
        require_choice("colour", "grue", ["green", "blue"])
    require_choice("colour", "green", ["green", "blue"])


@pytest.mark.parametrize("value", [0.4, 0.6, 0.5])
def test_a_range_includes_its_ends(value: float) -> None:
    require_range("rate", value, 0.4, 0.6)


@pytest.mark.parametrize("value", [0.39, 0.61, float("nan")])
def test_a_value_out_of_range_is_named_with_the_range(value: float) -> None:
    with pytest.raises(ValueError, match=rf"^rate={value} must be between 0.4 and 0.6$"):
        require_range("rate", value, 0.4, 0.6)


def test_an_open_range_is_named_by_its_lower_end() -> None:
    with pytest.raises(ValueError, match=r"^rate=-1 must be at least 0$"):
        require_range("rate", -1, 0)
    require_range("rate", 1e30, 0)


@pytest.mark.parametrize("field", ["widths", "channels", "kernel_sizes", "strides", "pools"])
def test_sizes_are_at_least_1(field: str) -> None:
    with pytest.raises(ValueError, match=rf"^network.{field}=0 must be at least 1$"):
        ConvSpec(**{field: [4, 0]})  # type: ignore[arg-type]


def test_paddings_are_at_least_0() -> None:
    with pytest.raises(ValueError, match=r"^network.paddings=-1 must be at least 0$"):
        ConvSpec(paddings=[0, -1])


def test_a_head_has_outputs() -> None:
    with pytest.raises(ValueError, match=r"^head.outputs=0 must be at least 1$"):
        HeadSpec("q", 0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"low": -0.1}, "load_balancing.low=-0.1 must be between 0 and 1"),
        ({"low": 0.6, "high": 0.5}, "load_balancing.high=0.5 must be between 0.6 and 1"),
        ({"step_size": -1.0}, "load_balancing.step_size=-1.0 must be at least 0"),
        ({"decay": 1.5}, "load_balancing.decay=1.5 must be between 0 and 1"),
    ],
)
def test_load_balancing_settings_out_of_range(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        LoadBalancingSpec(**settings)


def test_the_spec_keeps_no_shared_lists() -> None:
    MLPSpec().widths.append(7)
    assert MLPSpec().widths == [128, 128]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"torso": "mpl"}, r"network.torso=mpl is unknown \(did you mean mlp\?\); choose from bro, conv, gpt, mlp, .*"),
        ({"activations": ["rleu"]}, r"network.activations=rleu is unknown .*; choose from relu, .*crelu, .*identity"),
        ({"normalisation": ["group"]}, "network.normalisation=group is unknown; choose from layer, layer_non_affine, .*"),
        ({"initialiser": "lecun"}, "network.initialiser=lecun is unknown; choose from default, .*xavier_uniform"),
        ({"widths": [4, 4], "activations": ["relu"] * 3}, "network.activations has 3 entries; give 1 or 2, one for each layer"),
        ({"widths": [4, 4], "activations": []}, "network.activations has 0 entries; give 1 or 2, one for each layer"),
        ({"torso": "conv", "channels": [4]}, r"network.torso=conv needs images .*, not inputs of shape \(3,\)"),
        ({"torso": "conv"}, r"network.channels=\[\] must have an entry for each convolution of network.torso=conv"),
        ({"torso": "nature_cnn"}, r"network.torso=nature_cnn needs images .*, not inputs of shape \(3,\)"),
        (
            {"load_balancing": LoadBalancingSpec(), "activations": ["tanh"]},
            "load_balancing does not work with activation tanh, .*",
        ),
    ],
)
def test_what_the_factory_refuses(build: Build, settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        build((3,), **settings)


@pytest.mark.parametrize("field", ["kernel_sizes", "strides", "paddings", "pools"])
def test_every_convolution_has_its_sizes(build: Build, field: str) -> None:
    with pytest.raises(ValueError, match=rf"^network.{field} has 2 entries; give 1 or 3, one for each layer$"):
        build((1, 9, 9), torso="conv", channels=[2, 2, 2], **{field: [1, 1]})


@pytest.mark.parametrize(
    ("side", "settings", "message"),
    [
        (2, {}, "conv_1: kernel 3, stride 1, pool 1 leave nothing of a 2x2 input"),
        (3, {"pools": [2]}, "conv_1: kernel 3, stride 1, pool 2 leave nothing of a 3x3 input"),
        (4, {"channels": [2, 2]}, "conv_2: kernel 3, stride 1, pool 1 leave nothing of a 2x2 input"),
    ],
)
def test_a_convolution_that_leaves_nothing(build: Build, side: int, settings: dict[str, object], message: str) -> None:
    form = rf"; images are \(channels, height, width\), here \(1, {side}, {side}\)"
    with pytest.raises(ValueError, match=f"^{message}{form}$"):
        build((1, side, side), **{"torso": "conv", "channels": [2], **settings})


def test_what_a_head_refuses() -> None:
    with pytest.raises(ValueError, match=r"^head=quantile is unknown; choose from categorical, .*, gaussian, .*, q, .*$"):
        build_head(4, HeadSpec("quantile", 2), MLPSpec())
    for bins, low, high in [(1, 0.0, 1.0), (5, 1.0, 1.0)]:
        with pytest.raises(ValueError, match=rf"needs at least 2 bins and low < high, not {bins} on \[{low}, {high}\]"):
            build_head(4, HeadSpec("categorical", 2, bins, low, high), MLPSpec())


def test_the_parts_refuse_by_themselves(build: Build) -> None:
    weight = build().head.linear.weight
    for call in (
        lambda: activation_named("x"),
        lambda: build_normalisation("x", 2, False),
        lambda: initialisers_for("x", weight, 1),
    ):
        with pytest.raises(ValueError, match=r"=x is unknown; choose from "):
            call()
