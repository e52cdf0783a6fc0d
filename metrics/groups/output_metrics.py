"""Metrics of the outputs and of the features that they are read from, on the sample."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import torch
from torch import Tensor, nn

from plasticity.metrics.log_values import Series
from plasticity.metrics.measures.norms import norm
from plasticity.metrics.measures.outputs import Directions, constancy, directions, mean_entropy, mean_norm, top_share
from plasticity.metrics.metric import Measured, mean_of, metric
from plasticity.metrics.undefined import Undefined
from plasticity.metrics.view import PartView
from plasticity.networks.heads.dueling import DuelingHead
from plasticity.networks.heads.ensemble import Ensemble
from plasticity.networks.heads.output_heads import PairedHead
from plasticity.networks.network import Network
from plasticity.networks.torsos.torso_network import TorsoNetwork

INPUTS: Final = 128
DRAWN: Final = 5
_LOGITS: Final = ("classification", "policy", "categorical")
_GAUSSIAN: Final = ("gaussian", "squashed_gaussian")
_NO_INPUTS: Final = "there are no inputs yet"

_of_outputs = partial(metric, of="parts", cost="one pass over the outputs", range="0 and up")
_of_directions = partial(metric, of="parts", cost="as principal_output_share, shared", range="0 to 1")


def _outputs(view: PartView) -> Tensor | Undefined:
    """Returns the outputs of the head (of two heads, of the first) for the sample, (n, ..., K)."""
    return view.once("first outputs", _first_outputs)


@torch.no_grad()
def _first_outputs(view: PartView) -> Tensor | Undefined:
    if view.inputs is None:
        return Undefined(_NO_INPUTS)
    network = view.part.network
    with network.evaluating():
        outputs: Tensor = network(view.inputs) if view.outputs is None else view.outputs
    if network.head_spec.second is None:
        return outputs
    assert isinstance(network, TorsoNetwork)
    assert isinstance(network.head, PairedHead)
    return network.head.split(outputs)[0]


@_of_outputs("logit_norm", direction="rises")
def _logit_norm(view: PartView) -> float:
    """Mean Euclidean norm of the logits of one categorical, or of the values of one input."""
    if view.part.network.head_spec.kind in _GAUSSIAN:
        return Undefined("the outputs are means and deviations")
    outputs = _outputs(view)
    return outputs if isinstance(outputs, Undefined) else mean_norm(outputs)


@_of_outputs("output_entropy", direction="falls; jumps at a change of the problem")
def _output_entropy(view: PartView) -> float:
    """Mean entropy, in nats, of the categoricals that the logits stand for."""
    if view.part.network.head_spec.kind not in _LOGITS:
        return Undefined("the outputs are not logits")
    outputs = _outputs(view)
    return outputs if isinstance(outputs, Undefined) else mean_entropy(outputs)


def _networks(view: PartView) -> list[TorsoNetwork]:
    network: Network = view.part.network
    return list(network.networks) if isinstance(network, Ensemble) else [network] if isinstance(network, TorsoNetwork) else []


def _maps(network: TorsoNetwork) -> list[nn.Linear]:
    """Returns the maps onto the outputs, of two heads those of the first."""
    head = network.head.first if isinstance(network.head, PairedHead) else network.head
    return [linear for linear, _ in head.maps("").values()]


@metric("output_bias_norm", of="parts", range="0 and up", direction="none", cost="one pass over the head's bias")
def _bias_norm(view: PartView) -> float:
    """Euclidean norm of the bias of the output map."""
    biases = [linear.bias for network in _networks(view) for linear in _maps(network) if linear.bias is not None]
    size = norm({str(index): bias.detach() for index, bias in enumerate(biases)})
    return size if isinstance(size, Undefined) else float(size)


def _features(view: PartView) -> list[Tensor] | Undefined:
    """Returns what the head of each network reads of the first 128 inputs, (at most 128, d); of sequences, of their tokens."""
    return view.once("features that the head reads", _features_read)


@torch.no_grad()
def _features_read(view: PartView) -> list[Tensor] | Undefined:
    if view.inputs is None:
        return Undefined(_NO_INPUTS)
    networks = _networks(view)
    if not networks:
        return Undefined("the network is not a torso and a head")
    rows: list[Tensor] = []
    for network in networks:
        with network.evaluating():
            features = network.features(view.inputs[:INPUTS])
        rows.append(features.reshape(-1, features.shape[-1])[:INPUTS])
    return rows if all(bool(each.isfinite().all()) for each in rows) else Undefined("the features are not finite")


def _spectrum(view: PartView) -> list[Tensor] | Undefined:
    features = _features(view)
    return features if isinstance(features, Undefined) else [torch.linalg.svdvals(each.double()) for each in features]


def _of_spectrum(view: PartView, of: Callable[[Tensor], float]) -> float:
    spectra = view.once("singular values of 128", _spectrum)
    return spectra if isinstance(spectra, Undefined) else mean_of([of(spectrum) for spectrum in spectra])


@metric(
    "feature_spectral_norm", of="parts", range="0 and up", direction="rises", cost="128 inputs, one singular value decomposition"
)
def _largest(view: PartView) -> float:
    """Largest singular value of the features that the head reads of 128 inputs, not centred."""
    return _of_spectrum(view, lambda sigma: float(sigma[0]))


@metric("feature_top_share", of="parts", range="0 to 1", direction="rises", cost="as feature_spectral_norm, shared")
def _top_share(view: PartView) -> float:
    """Share of the largest of these singular values in the sum of all."""
    return _of_spectrum(view, top_share)


@metric(
    "feature_singular_values", of="agent", range="0 and up", direction="falls steeply", cost="as feature_spectral_norm, shared"
)
def _singular_values(views: Sequence[PartView]) -> Measured:
    """Curve of all these singular values by index; of several networks in one part, those of the first."""
    values: Measured = {}
    for view in views:
        spectra = view.once("singular values of 128", _spectrum)
        if isinstance(spectra, Undefined):
            values[f"/{view.name}"] = spectra
        else:
            index = torch.arange(1, len(spectra[0]) + 1)
            values[f"/{view.name}"] = Series(index, {"features": spectra[0]}, "index", "singular value")
    return values


def _directions(view: PartView) -> list[Directions] | Undefined:
    features = _features(view)
    if isinstance(features, Undefined):
        return features
    networks = _networks(view)
    if any(isinstance(network.head, DuelingHead) and network.head.spec.stream_widths for network in networks):
        return Undefined("the streams of a dueling head read separate features")
    if any(network.injection is not None for network in networks):
        return Undefined("the head has frozen companions")
    weights = [torch.cat([linear.weight.detach() for linear in _maps(network)]) for network in networks]
    return [directions(each, weight) for each, weight in zip(features, weights, strict=True)]


def _of_first(view: PartView, of: Callable[[Directions], float]) -> float:
    found = view.once("principal directions", _directions)
    return found if isinstance(found, Undefined) else mean_of([of(each) for each in found])


@_of_directions("principal_output_share", direction="rises", cost="128 inputs, one singular value decomposition with vectors")
def _first_share(view: PartView) -> float:
    """Share of the features' first principal direction in the squared contributions of all to the outputs, without the bias."""
    return _of_first(view, lambda found: top_share(found.energies))


@_of_directions("principal_output_constancy", direction="rises")
def _first_constancy(view: PartView) -> float:
    """How constant over inputs that contribution is, squared mean over mean square: 1 where it serves as a bias."""
    return _of_first(view, lambda found: constancy(found.scores[:, 0]))


@_of_directions("principal_outputs", of="agent", direction="none", range="any number")
def _contributions(views: Sequence[PartView]) -> Measured:
    """Curves of what the first five principal directions, and the bias, add to the first output, by input."""
    values: Measured = {}
    for view in views:
        found = view.once("principal directions", _directions)
        if isinstance(found, Undefined):
            values[f"/{view.name}"] = found
            continue
        first, bias = found[0], _maps(_networks(view)[0])[0].bias
        added = first.scores[:, :DRAWN] * first.answers[:DRAWN, 0]
        curves = {f"direction {number}": column for number, column in enumerate(added.unbind(1), start=1)}
        if bias is not None:
            curves["bias"] = bias.detach()[0].double().expand(len(added))
        values[f"/{view.name}"] = Series(torch.arange(len(added)), curves, "input", "contribution to the first output")
    return values
