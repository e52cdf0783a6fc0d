"""Compiled graphs are kept on disk, and found again by what they compute."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from plasticity.updates import compile_cache
from plasticity.updates.compiled_function import CompiledFunction, _traced


def doubled(values: Tensor) -> list[Tensor]:
    return [values * 2]


def tripled(values: Tensor) -> list[Tensor]:
    return [values * 3]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PLASTICITY_COMPILED", str(tmp_path / "compiled"))
    return tmp_path / "compiled"


def libraries(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/graph.so"))


def test_what_was_compiled_is_loaded_by_the_next_function_of_the_same_graph(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert CompiledFunction(doubled)(torch.ones(3))[0].tolist() == [2.0] * 3
    assert CompiledFunction(tripled)(torch.ones(3))[0].tolist() == [3.0] * 3
    assert len(libraries(folder)) == 2
    monkeypatch.setattr(compile_cache, "_compiled", None)  # nothing can be compiled any more
    assert CompiledFunction(doubled)(torch.full((3,), 5.0))[0].tolist() == [10.0] * 3
    assert CompiledFunction(lambda values: [values * 3])(torch.full((3,), 5.0))[0].tolist() == [15.0] * 3
    with pytest.raises(TypeError):  # another layout is another graph
        CompiledFunction(doubled)(torch.ones(4))


def test_a_damaged_library_is_compiled_again(folder: Path) -> None:
    library = compile_cache._library(_traced(doubled, [torch.ones(5)])[0], [torch.ones(5)])
    library.write_bytes(b"not a library")
    assert CompiledFunction(doubled)(torch.ones(5))[0].tolist() == [2.0] * 5
    assert library.stat().st_size > 1000


def test_without_a_folder_a_process_compiles_for_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PLASTICITY_COMPILED", str(tmp_path / "file" / "compiled"))
    assert CompiledFunction(doubled)(torch.ones(6))[0].tolist() == [2.0] * 6
    assert capsys.readouterr().err.count("\n") == 1


def test_the_oldest_libraries_are_deleted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compile_cache, "MOST_KEPT", 1)
    CompiledFunction(doubled)(torch.ones(7))
    first = libraries(folder)
    CompiledFunction(tripled)(torch.ones(7))
    assert len(libraries(folder)) == 1
    assert libraries(folder) != first
    assert len(list(folder.iterdir())) == 2  # a library and its lock


def test_tensors_that_a_function_reads_are_read_at_each_call(folder: Path) -> None:
    offset = torch.tensor([1.0, 2.0])
    weight = torch.nn.Parameter(torch.eye(2))
    call = CompiledFunction(lambda values: [values @ weight + offset + offset])
    assert call(torch.zeros(1, 2))[0].tolist() == [[2.0, 4.0]]
    offset.fill_(3.0)
    weight.data.mul_(10)
    assert call(torch.ones(1, 2))[0].tolist() == [[16.0, 16.0]]


def test_operations_that_a_library_calls_by_name_are_kept_with_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiler has no code of its own for the norms of a list, as ``l2_init`` takes them."""

    def norm(first: Tensor, second: Tensor) -> list[Tensor]:
        return [torch.stack(torch._foreach_norm([first, second]))]

    assert CompiledFunction(norm)(torch.tensor([3.0, 4.0]), torch.ones(4))[0].tolist() == [5.0, 2.0]
    monkeypatch.setattr(compile_cache, "_compiled", None)
    assert CompiledFunction(norm)(torch.tensor([0.0, 1.0]), torch.zeros(4))[0].tolist() == [1.0, 0.0]
