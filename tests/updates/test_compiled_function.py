import random
from collections.abc import Sequence

import numpy
import pytest
import torch
from torch import Tensor

from plasticity.updates.compiled_function import CompiledFunction

OFFSETS = torch.tensor([10.0, 20.0])


def advance(total: Tensor, batch: Tensor) -> list[Tensor]:
    """Adds the batch's column sums to ``total`` in place; returns it, and twice the batch plus 10 and 20."""
    total.add_(batch.sum(0))
    return [total, batch * 2 + OFFSETS]


@pytest.fixture(params=["off", "compiled"], autouse=True)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways to compile: for this process alone, and into a folder that these tests share."""
    place = "off" if request.param == "off" else str(tmp_path_factory.getbasetemp() / "compiled")
    monkeypatch.setenv("PLASTICITY_COMPILED", place)


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Grows by one at every compilation."""
    made: list[object] = []
    original = CompiledFunction._compile

    def noted(self: CompiledFunction, tensors: Sequence[Tensor]) -> object:
        made.append(tensors)
        return original(self, tensors)

    monkeypatch.setattr(CompiledFunction, "_compile", noted)
    return made


def rows(count: int) -> Tensor:
    return torch.arange(2.0 * count).view(count, 2)


def test_calls_change_their_arguments_once_and_return_what_the_function_returns(compilations: list[object]) -> None:
    # rows(3) is (0, 1), (2, 3), (4, 5): column sums 6 and 9. The compilation in the first call adds nothing of its own.
    call, total = CompiledFunction(advance, fixed=1), torch.zeros(2)
    address = total.data_ptr()
    first, doubled = call(total, rows(3))
    assert total.tolist() == first.tolist() == [6.0, 9.0]
    assert doubled.tolist() == [[10.0, 22.0], [14.0, 26.0], [18.0, 30.0]]
    _, again = call(total, rows(3) + 1)
    assert total.tolist() == [15.0, 21.0]
    assert again.tolist() == [[12.0, 24.0], [16.0, 28.0], [20.0, 32.0]]
    assert doubled.tolist() == [[10.0, 22.0], [14.0, 26.0], [18.0, 30.0]]  # results are not buffers that the next call reuses
    assert total.data_ptr() == address
    assert len(compilations) == 1


def test_each_layout_is_compiled_once_and_computed_rightly(compilations: list[object]) -> None:
    call = CompiledFunction(advance)
    transposed = torch.tensor([[0.0, 2.0, 4.0], [1.0, 3.0, 5.0]]).T
    expected = []
    for batch, compiled in [
        (rows(3), 1),
        (rows(2), 2),  # another shape
        (rows(3), 2),
        (transposed, 3),  # other strides
        (rows(3).double(), 4),  # another type
        (transposed, 4),
        (rows(2), 4),
        (rows(3).double(), 4),
    ]:
        total = torch.zeros(2)
        _, doubled = call(total, batch)
        assert len(compilations) == compiled
        assert total.tolist() == ([2.0, 4.0] if len(batch) == 2 else [6.0, 9.0])
        assert doubled.dtype == (torch.float64 if batch.dtype == torch.float64 else torch.float32)
        expected.append(doubled.tolist()[:2])
    assert expected == [[[10.0, 22.0], [14.0, 26.0]]] * 8


def test_no_graph_is_kept(compilations: list[object]) -> None:
    call, total = CompiledFunction(advance), torch.zeros(2, requires_grad=True)
    for _ in range(2):
        results = call(total, rows(3).requires_grad_())
        assert not any(result.grad_fn for result in results)
    assert total.tolist() == [12.0, 18.0]
    assert total.requires_grad
    assert total.is_leaf
    assert torch.is_grad_enabled()


def test_compiling_draws_no_random_number(compilations: list[object]) -> None:
    before = torch.get_rng_state(), random.getstate(), numpy.random.get_state()[1].tolist()  # noqa: NPY002
    CompiledFunction(lambda x: [x.square().sum() + 4.0])(rows(3))
    assert len(compilations) == 1
    after = torch.get_rng_state(), random.getstate(), numpy.random.get_state()[1].tolist()  # noqa: NPY002
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]


def test_a_factor_in_a_sum_with_a_matrix_product_counts() -> None:
    # The product is ((11, 2), (4, 1)).
    def function(a: Tensor, b: Tensor, c: Tensor) -> list[Tensor]:
        return [torch.add(a @ b, c, alpha=0.5), torch.sub(a @ b, c, alpha=0.5), (a @ b).add_(c, alpha=0.5)]

    a, b, c = torch.tensor([[[1.0, 2.0], [0.0, 1.0]], [[3.0, 0.0], [4.0, 1.0]], [[100.0, 10.0], [20.0, 2.0]]])
    added, less = [[61.0, 7.0], [14.0, 2.0]], [[-39.0, -3.0], [-6.0, 0.0]]
    assert [result.tolist() for result in CompiledFunction(function)(a, b, c)] == [added, less, added]


def test_layouts_beyond_a_number_run_as_they_are(monkeypatch: pytest.MonkeyPatch, compilations: list[object]) -> None:
    monkeypatch.setattr("plasticity.updates.compiled_function.MOST_LAYOUTS", 0)
    total = torch.zeros(2)
    CompiledFunction(advance, fixed=1)(total, rows(3))
    assert total.tolist() == [6.0, 9.0]
    assert compilations == []
