from math import log, sqrt
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import softmax
from scipy.stats import entropy
from torch import Tensor

from plasticity.agents.parts import PartBuilder
from plasticity.metrics.catalogue import CATALOGUE
from plasticity.metrics.log_values import Series
from plasticity.metrics.measures.outputs import constancy, directions, mean_entropy, mean_norm, top_share
from plasticity.metrics.undefined import Undefined
from plasticity.metrics.view import PartView, view_part
from plasticity.networks.spec import HeadSpec
from plasticity.networks.torsos.feedforward import MLPSpec
from plasticity.optimizers.factory import OptimizerSettings


def gaussian(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def test_norm_and_entropy_by_hand() -> None:
    # Norms 5 and 0. Shares 1/4 and 3/4: (1/4) ln 4 + (3/4) ln (4/3); equal logits: ln 2.
    assert mean_norm(torch.tensor([[3.0, 4.0], [0.0, 0.0]])) == 2.5
    assert mean_entropy(torch.tensor([[0.0, log(3)]])) == pytest.approx(0.25 * log(4) + 0.75 * log(4 / 3))
    assert mean_entropy(torch.tensor([[7.0, 7.0], [1000.0, 0.0]])) == pytest.approx(log(2) / 2)
    for of in (mean_norm, mean_entropy):
        assert isinstance(of(torch.tensor([[float("inf"), 0.0]])), Undefined)


@pytest.mark.parametrize("shape", [(1, 2), (7, 10), (5, 3, 51), (2, 4, 6, 3)])
def test_norm_and_entropy_equal_numpy(shape: tuple[int, ...]) -> None:
    logits = gaussian(*shape) * 4
    rows = logits.double().numpy().reshape(-1, shape[-1])
    assert mean_norm(logits) == pytest.approx(np.mean(np.sqrt((rows**2).sum(1))), rel=1e-12)
    assert mean_entropy(logits) == pytest.approx(np.mean([entropy(softmax(row)) for row in rows]), rel=1e-9)


def test_directions_by_hand() -> None:
    # Features (2, 0), (2, 0), (0, 1): singular values 2 sqrt 2 along the first axis, 1 along the second. The weight (3, 4) makes
    # (6, 6, 0) and (0, 0, 4) of them: energies 72 and 16. The first is constant to (4/3)^2 / (8/3) = 2/3.
    found = directions(torch.tensor([[2.0, 0.0], [2.0, 0.0], [0.0, 1.0]]), torch.tensor([[3.0, 4.0]]))
    assert found.singular_values.tolist() == pytest.approx([2 * sqrt(2), 1.0])
    assert (found.scores * found.answers[:, 0]).tolist() == [pytest.approx(row) for row in ([6, 0], [6, 0], [0, 4])]
    assert found.energies.tolist() == pytest.approx([72.0, 16.0])
    assert top_share(found.energies) == pytest.approx(72 / 88)
    assert constancy(found.scores[:, 0]) == pytest.approx(2 / 3)
    assert constancy(torch.full((4,), -3.0)) == 1.0
    assert isinstance(constancy(torch.zeros(3)), Undefined)
    assert isinstance(top_share(torch.zeros(3)), Undefined)


@pytest.mark.parametrize(("n", "d", "outputs"), [(3, 2, 1), (6, 6, 3), (4, 9, 2), (128, 30, 10)])
def test_directions_equal_projections_one_by_one(n: int, d: int, outputs: int) -> None:
    features, weight = gaussian(n, d) + 1, gaussian(outputs, d)
    found = directions(features, weight)
    matrix, reader = features.double().numpy(), weight.double().numpy()
    # Eigenvectors of the covariance, not centred, in place of a decomposition of the features.
    squares, vectors = np.linalg.eigh(matrix.T @ matrix)
    projected = [matrix @ np.outer(v, v) @ reader.T for v in vectors[:, ::-1].T[: min(n, d)]]
    energies = [float((each**2).sum()) for each in projected]
    assert found.singular_values.square().tolist() == pytest.approx(squares[::-1][: min(n, d)].tolist(), rel=1e-8, abs=1e-8)
    assert found.energies.tolist() == pytest.approx(energies, rel=1e-6, abs=1e-8)
    assert (found.scores @ found.answers).numpy() == pytest.approx(matrix @ reader.T, abs=1e-9)
    mean = projected[0].mean(0)
    assert constancy(found.scores[:, 0]) == pytest.approx(n * (mean**2).sum() / energies[0], rel=1e-6)


def seen(head: HeadSpec, inputs: Tensor, members: int = 1, **spec: Any) -> PartView:
    builder = PartBuilder(MLPSpec(**({"widths": [7, 5]} | spec)), tuple(inputs.shape[1:]), torch.float32, OptimizerSettings())
    return view_part("q", builder("q", head, members=members), inputs)


def value(name: str, view: PartView) -> Any:
    return CATALOGUE[name].measure([view])["/q"]


def test_metrics_of_a_classifier_equal_its_outputs() -> None:
    view = seen(HeadSpec("classification", 4), gaussian(300, 3) * 9)
    network = view.part.network
    with torch.no_grad():
        logits = network(view.inputs).double().numpy()
        features = view.layers[-1].post[:128].double().numpy()
    assert value("logit_norm", view) == pytest.approx(np.linalg.norm(logits, axis=1).mean())
    assert value("output_entropy", view) == pytest.approx(entropy(softmax(logits, axis=1), axis=1).mean())
    sigma = np.linalg.svd(features, compute_uv=False)
    assert value("feature_spectral_norm", view) == pytest.approx(sigma[0])
    assert value("feature_top_share", view) == pytest.approx(sigma[0] / sigma.sum())
    curve = value("feature_singular_values", view)
    assert isinstance(curve, Series)
    assert curve.x.tolist() == [1, 2, 3, 4, 5]
    assert curve.ys["features"].tolist() == pytest.approx(sigma.tolist(), abs=1e-6)
    bias = network.tensor("head.linear.bias").detach()
    assert value("output_bias_norm", view) == pytest.approx(float(bias.norm()))
    assert 0 <= value("principal_output_share", view) <= 1
    drawn = value("principal_outputs", view)
    assert list(drawn.ys) == [*(f"direction {number}" for number in range(1, 6)), "bias"]
    # All five directions of five features and the bias make the first output.
    assert sum(drawn.ys.values()).tolist() == pytest.approx(logits[:128, 0].tolist(), abs=1e-5)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("head", "columns"),
    [(HeadSpec("policy", 3, second=HeadSpec("value", 1)), 3), (HeadSpec("categorical", 2, bins=5, low=0.0, high=1.0), 5)],
)
def test_entropy_of_each_categorical(head: HeadSpec, columns: int) -> None:
    view = seen(head, gaussian(40, 3))
    assert view.outputs is not None
    rows = view.outputs.double().numpy()
    rows = rows.reshape(-1, columns) if head.bins else rows[:, :columns]
    assert value("output_entropy", view) == pytest.approx(entropy(softmax(rows, axis=1), axis=1).mean())
    assert value("logit_norm", view) == pytest.approx(np.linalg.norm(rows, axis=1).mean())
    assert 0 < value("principal_output_constancy", view) <= 1


def test_members_are_averaged_and_what_has_no_value_says_why() -> None:
    twins = seen(HeadSpec("value", 1), gaussian(20, 3), members=2)
    sigma = [float(torch.linalg.matrix_norm(layer.post, 2)) for layer in twins.layers if layer.name.endswith("dense_2")]
    assert value("feature_spectral_norm", twins) == pytest.approx(sum(sigma) / 2, rel=1e-5)
    reasons = [
        ("output_entropy", twins, "the outputs are not logits"),
        ("logit_norm", seen(HeadSpec("gaussian", 2), gaussian(9, 3)), "the outputs are means and deviations"),
        (
            "principal_outputs",
            seen(HeadSpec("q", 2, dueling=True, stream_widths=(4,)), gaussian(9, 3)),
            "the streams of a dueling head read separate features",
        ),
    ]
    for name, view, reason in reasons:
        assert value(name, view).reason == reason


def test_without_a_hidden_layer_the_inputs_are_the_features() -> None:
    view = seen(HeadSpec("classification", 2), torch.tensor([[3.0, 0.0], [4.0, 0.0]]), widths=[])
    assert value("feature_spectral_norm", view) == pytest.approx(5.0)
    assert value("feature_top_share", view) == pytest.approx(1.0)
    assert value("output_entropy", view) > 0
