"""Convolutions that stay within their memory, in a process whose allocator looks."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import plasticity.networks
from plasticity.networks.layers.convolution import Convolution, convolve
from plasticity.networks.layers.spectral_normalisation import SpectralNormalisation

ROOT = Path(__file__).parents[3]
CHECKED = {"LD_PRELOAD": "libc_malloc_debug.so.0", "MALLOC_CHECK_": "3"}
KILLED = -6  # SIGABRT: the allocator found what was overwritten
CANARY = """
import ctypes
python = ctypes.pythonapi
python.PyMem_RawMalloc.restype = ctypes.c_void_p
python.PyMem_RawMalloc.argtypes = [ctypes.c_size_t]
python.PyMem_RawFree.argtypes = [ctypes.c_void_p]
block = python.PyMem_RawMalloc(24)
ctypes.memset(block + 24, 255, 1)
python.PyMem_RawFree(block)
"""
# Shapes that fault in PyTorch's own form on processors without AVX-512. It prints the largest relative error of a gradient.
PASSES = """
import torch
from plasticity.networks.layers.convolution import Convolution

torch.set_num_threads(1)
torch.manual_seed(0)
worst = 0.0
for inputs, outputs, stride, side, passes in ((4, 6, 2, 8, 300), (2, 1, 2, 8, 20), (3, 20, 4, 8, 20), (7, 1, 2, 10, 20)):
    plain = Convolution(inputs, outputs, 1, stride).double()
    ours = Convolution(inputs, outputs, 1, stride)
    ours.load_state_dict(plain.state_dict())
    ours = ours.to(memory_format=torch.channels_last)
    x = torch.randn(6, inputs, side, side)
    like = torch.nn.functional.conv2d(x.double(), plain.weight, plain.bias, stride)
    direction = torch.randn(like.shape)
    true = torch.autograd.grad(like, list(plain.parameters()), direction.double())
    x = x.contiguous(memory_format=torch.channels_last)
    for _ in range(passes):
        inner = x.detach().requires_grad_()
        ours.zero_grad()
        ours(inner).backward(direction.contiguous(memory_format=torch.channels_last))
        for parameter, exact in zip(ours.parameters(), true):
            worst = max(worst, float((parameter.grad - exact).abs().max() / exact.abs().max()))
print(worst)
"""


def run(code: str) -> "subprocess.CompletedProcess[str]":
    """Runs code in a process whose allocator checks what lies behind each block when that is freed."""
    environment = CHECKED | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_strided_convolutions_of_one_pixel_stay_within_their_memory() -> None:
    canary = run(CANARY)
    assert canary.returncode == KILLED, f"the allocator does not look: {canary.returncode} {canary.stderr}"
    passes = run(PASSES)
    assert passes.returncode == 0, passes.stderr
    assert float(passes.stdout) < 1e-6


@pytest.mark.parametrize("kernel", [1, 2, 3])
@pytest.mark.parametrize(("stride", "padding", "groups"), [(1, 0, 1), (2, 0, 1), (3, 0, 2), (2, 1, 1), (3, 2, 4)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_it_is_the_convolution_of_pytorch(
    kernel: int, stride: int, padding: int, groups: int, layout: torch.memory_format
) -> None:
    torch.manual_seed(0)
    layer = Convolution(8, 12, kernel, stride, padding, groups).to(memory_format=layout)  # type: ignore[call-overload]
    plain = [value.detach().double().requires_grad_() for value in layer.parameters()]
    for height, width in ((8, 8), (7, 10)):
        x = torch.randn(2, 8, height, width)
        ours, theirs = x.contiguous(memory_format=layout).requires_grad_(), x.double().requires_grad_()
        result = layer(ours)
        expected = functional.conv2d(theirs, *plain, stride, padding, groups=groups)
        torch.testing.assert_close(result, expected, check_dtype=False)
        direction = torch.randn(result.shape)
        got = torch.autograd.grad(result, [ours, *layer.parameters()], direction)
        true = torch.autograd.grad(expected, [theirs, *plain], direction.double())
        torch.testing.assert_close(got, true, check_dtype=False, rtol=1e-4, atol=1e-5)


def test_the_pixels_that_a_stride_passes_over_by_hand() -> None:
    x = torch.arange(9.0).view(1, 1, 3, 3).contiguous(memory_format=torch.channels_last).requires_grad_()
    weight, bias = torch.full((1, 1, 1, 1), 10.0), torch.ones(1)
    y = convolve(x, weight, bias, (2, 2), (0, 0))
    assert y.flatten().tolist() == [1.0, 21.0, 61.0, 81.0]  # pixels 0, 2, 6 and 8
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert gradient.flatten().tolist() == [10.0, 0.0, 10.0, 0.0, 0.0, 0.0, 10.0, 0.0, 10.0]
    assert convolve(x, weight, bias, (2, 1), "valid").shape == (1, 1, 2, 3)
    padded = convolve(x, weight, bias, (2, 2), (1, 1))  # pixel 4, and zeros around the image
    assert padded.flatten().tolist() == [*[1.0] * 4, 41.0, *[1.0] * 4]


def _calls(path: Path) -> set[str]:
    """Names of all functions and classes that a file calls, without the modules they are of."""
    calls = (node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))
    return {f.attr if isinstance(f, ast.Attribute) else getattr(f, "id", "") for f in calls}


def test_networks_convolve_in_one_place() -> None:
    files = [path for path in Path(plasticity.networks.__path__[0]).rglob("*.py") if path.name != "convolution.py"]
    assert any("Convolution" in _calls(path) for path in files)
    for path in files:
        assert not _calls(path) & {"Conv1d", "Conv2d", "Conv3d", "conv1d", "conv2d", "conv3d"}, path


def test_a_spectral_map_convolves_in_the_same_way(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []

    def recorded(x: Tensor, *rest: object) -> Tensor:
        seen.append(x)
        return convolve(x, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr("plasticity.networks.layers.spectral_normalisation.convolve", recorded)
    layer: nn.Module = SpectralNormalisation(Convolution(4, 6, 1, 2))
    assert layer(torch.randn(2, 4, 8, 8)).shape == (2, 6, 4, 4)
    assert len(seen) == 1
