from typing import Any

import pytest
import torch
from torch import Tensor

from plasticity.interventions.methods.colinear_reset import ColinearReset, centred, colinear, cosines, products


def test_products_by_hand() -> None:
    gram, sums, count = products(torch.tensor([[1.0, 2.0], [3.0, -1.0]]), 1)
    assert gram.tolist() == [[10.0, -1.0], [-1.0, 5.0]]
    assert sums.tolist() == [4.0, 1.0]
    assert count == 2
    # The same numbers as halves of one unit: 1 + 9 + 4 + 1.
    gram, sums, _ = products(torch.tensor([[1.0, 2.0], [3.0, -1.0]]), 2)
    assert gram.tolist() == [[15.0]]
    assert sums.tolist() == [4.0, 1.0]
    images = torch.arange(8.0).view(1, 2, 2, 2)  # channels 0 1 2 3 and 4 5 6 7
    gram, sums, count = products(images, 1)
    assert gram.tolist() == [[14.0, 38.0], [38.0, 126.0]]
    assert sums.tolist() == [6.0, 22.0]
    assert count == 4


def test_cosines_by_hand() -> None:
    h = torch.tensor([[3.0, 6.0, 0.0, -1.0], [4.0, 8.0, 0.0, 0.0]])
    expected = torch.tensor([[1.0, 1.0, 0.0, -0.6], [1.0, 1.0, 0.0, -0.6], [0.0] * 4, [-0.6, -0.6, 0.0, 1.0]])
    torch.testing.assert_close(cosines(h.T @ h), expected)


def test_centred_cosines_are_correlations() -> None:
    h = torch.randn(50, 5, generator=torch.Generator().manual_seed(0)) + 2.0
    gram, sums, count = products(h, 1)
    torch.testing.assert_close(cosines(centred(gram, sums, count, 1)), torch.corrcoef(h.T.double()), rtol=1e-6, atol=1e-6)


def symmetric(entries: dict[tuple[int, int], float], units: int) -> Tensor:
    matrix = torch.eye(units)
    for (i, j), value in entries.items():
        matrix[i, j] = matrix[j, i] = value
    return matrix


@pytest.mark.parametrize(
    ("entries", "expected", "partners"),
    [
        ({(0, 1): 0.995, (2, 3): -0.995}, [1, 3], {1: 0, 3: 2}),
        ({(0, 1): 0.99}, [], {}),  # not above
        # 2 resembles 1 alone, and 1 goes: 2 stays, and 3, which resembles 2, goes.
        ({(0, 1): 1.0, (1, 2): 1.0, (2, 3): 1.0}, [1, 3], {1: 0, 3: 2}),
        ({(0, 2): 0.992, (1, 2): 0.999}, [2], {2: 1}),  # the most colinear
        ({(0, 1): 1.0, (0, 2): 1.0, (1, 2): 1.0}, [1, 2], {1: 0, 2: 0}),
    ],
)
def test_colinear_by_hand(entries: dict[tuple[int, int], float], expected: list[int], partners: dict[int, int]) -> None:
    chosen, partner = colinear(symmetric(entries, 4), 0.99)
    assert chosen.nonzero().flatten().tolist() == expected
    assert {unit: int(partner[unit]) for unit in expected} == partners


def greedy(rows: list[list[float]], threshold: float, centre: bool) -> list[int]:
    """One unit after the other, from the lists of what each said."""
    if centre:
        rows = [[value - sum(row) / len(row) for value in row] for row in rows]
    norms = [sum(value * value for value in row) ** 0.5 for row in rows]
    stays: list[int] = []
    gone: list[int] = []
    for j, row in enumerate(rows):
        similar = [
            i
            for i in stays
            if norms[i] * norms[j] > 1e-6
            and abs(sum(a * b for a, b in zip(rows[i], row, strict=True))) / (norms[i] * norms[j]) > threshold
        ]
        (gone if similar else stays).append(j)
    return gone


@pytest.mark.parametrize("centre", [False, True])
def test_against_loops(trained: Any, layout: str, centre: bool) -> None:
    threshold = 0.45 if centre else 0.7
    pair = trained(layout, lambda: ColinearReset(threshold, 3, 2, smallest_count=2, centre=centre, bias="zero"))
    said: dict[tuple[str, int, int], list[float]] = {}
    resets = 0
    for step in range(1, 13):
        logs = pair.update(step)
        if step % 3 != 1:
            for layer in pair.layers:
                for unit in range(layer.units):
                    for copy in range(layer.copies):
                        values = pair.post[layer.name][:, copy * layer.units + unit].flatten().tolist()
                        said.setdefault((layer.name, unit, copy), []).extend(values)
        chosen: dict[str, list[int]] = {layer.name: [] for layer in pair.layers}
        if step % 3 == 0:
            for layer in pair.layers:
                rows = []
                for unit in range(layer.units):
                    halves = [said[layer.name, unit, copy] for copy in range(layer.copies)]
                    halves = [[v - (sum(half) / len(half) if centre else 0.0) for v in half] for half in halves]
                    rows.append([value for half in halves for value in half])
                chosen[layer.name] = greedy(rows, threshold, centre=False)
            said = {}
            assert int(logs["method/units_reset"]) == sum(map(len, chosen.values()))
        pair.assert_reset(chosen)
        resets += sum(map(len, chosen.values()))
    assert resets >= 2


def make_colinear(pair: Any, factor: float, shift: float) -> None:
    """Unit 2 of the first layer becomes ``factor`` times unit 0; with a shift, on the side where both are on, that more."""
    layer = pair.layers[0]
    with torch.no_grad():
        for slice_ in (*layer.weights, *layer.biases):
            tensor = pair.part.network.tensor(slice_.tensor)
            tensor[2] = tensor[0] * factor
        if shift:
            for unit, more in ((0, 0.0), (2, shift)):
                pair.part.network.tensor(layer.bias.tensor)[unit] += 20.0 * (factor if unit else 1.0) + more


@pytest.mark.parametrize(("factor", "shift", "centre"), [(3.0, 0.0, False), (0.5, 0.0, False), (0.5, 2.0, True)])
def test_handing_over_keeps_the_function(trained: Any, layout: str, factor: float, shift: float, centre: bool) -> None:
    settings = {"centre": centre, "hand_over": True, "smallest_count": 2, "every_updates": 1, "threshold": 0.9999}
    pair = trained(layout, lambda: ColinearReset(**settings), "sgd", 0.0)
    make_colinear(pair, factor, shift)
    inputs = pair.inputs(0, 200)
    before = pair.part.forward(inputs).detach()
    first = pair.layers[0]
    incoming = pair.part.network.tensor(first.weight.tensor)[2].clone()
    logs = pair.update(0, 200)
    assert int(logs["method/units_reset"]) == 1
    assert not torch.equal(pair.part.network.tensor(first.weight.tensor)[2], incoming)
    torch.testing.assert_close(pair.part.forward(inputs).detach(), before, rtol=1e-3, atol=1e-4)


def test_without_handing_over_the_function_changes(trained: Any) -> None:
    pair = trained("mlp", lambda: ColinearReset(0.9999, 1, smallest_count=2), "sgd", 0.0)
    make_colinear(pair, 3.0, 0.0)
    before = pair.part.forward(pair.inputs(0)).detach()
    assert int(pair.update(0, 200)["method/units_reset"]) == 1
    assert (pair.part.forward(pair.inputs(0)).detach() - before).abs().max() > 1e-3


def test_few_examples_say_nothing(trained: Any) -> None:
    pair = trained("mlp", lambda: ColinearReset(0.0, 2, 2, smallest_count=13))
    assert [int(pair.update(step).get("method/units_reset", -1)) for step in range(1, 5)] == [-1, 0, -1, 0]
    pair = trained("mlp", lambda: ColinearReset(0.0, 2, 2, smallest_count=12))
    assert [int(pair.update(step).get("method/units_reset", -1)) > 0 for step in range(1, 3)] == [False, True]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"threshold": 1.5}, r"colinear_reset\.threshold=1\.5 must be between 0 and 1"),
        ({"smallest_count": 1}, r"colinear_reset\.smallest_count=1 must be at least 2"),
        ({"average_updates": 0}, r"colinear_reset\.average_updates=0 must be between 1 and 1000"),
        ({"bias": "keep"}, r"bias=keep is unknown; choose from resample, zero"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ColinearReset(**settings)
