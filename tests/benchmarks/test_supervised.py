"""The comparison of supervised loops, with tiny numbers."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from benchmarks import supervised
from benchmarks.bare_images import bare_loop
from plasticity.networks.factory import build_network
from plasticity.networks.spec import HeadSpec
from plasticity.training.config.command_line import compose_config
from plasticity.training.config.settings import plan_from

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", supervised.ROWS)
def test_both_loops_have_the_same_network(name: str) -> None:
    row = supervised.ROWS[name]
    plan = plan_from(compose_config([*row.words, f"optimizer.learning_rate={row.rate}"], CONFIGS))
    ours = build_network(plan.network, (3, 32, 32), torch.uint8, HeadSpec("classification", 2), 0)
    shapes = [sorted(tuple(value.shape) for value in network.parameters()) for network in (ours, row.bare(2))]
    assert shapes[0] == shapes[1]
    assert (plan.optimizer.name, plan.optimizer.momentum) == ("sgd", 0.9)
    assert 2 * row.per_class % row.batch == 0


def test_the_bare_loop_learns() -> None:
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3, 2))
    images = torch.tensor([[0, 0, 255], [255, 0, 0]], dtype=torch.uint8).view(2, 3, 1, 1)
    bare_loop(network, images, torch.tensor([0, 1]), 1, 0.1)(40)
    assert network(images.float() / 255).argmax(1).tolist() == [0, 1]


def test_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    supervised.main(["--rounds", "1", "--only", "convnet", "--updates", "1"])
    title, head, *rows = capsys.readouterr().out.strip().splitlines()
    assert title == "Continual ImageNet's ConvNet, batch 100"
    assert head.split() == ["images/s", "time", "/", "bare", "loop"]
    speeds = {row[:36].strip(): [float(number) for number in row[36:].split()] for row in rows}
    assert list(speeds) == ["bare PyTorch loop, default SGD", "testbed, eager, fp32", "testbed, eager, bf16"]
    assert speeds["bare PyTorch loop, default SGD"][1] == 1
    assert all(images > 0 and ratio > 0 for images, ratio in speeds.values())


def test_an_unknown_row_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        supervised.main(["--only", "vgg"])
    assert "invalid choice: 'vgg'" in capsys.readouterr().err
