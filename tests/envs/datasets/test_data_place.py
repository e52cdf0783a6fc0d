from typing import Any

import pytest
import torch

from plasticity.envs.datasets.data_place import place_of_data
from plasticity.envs.factory import build_stream
from plasticity.envs.tasks.permuted_text import ShakespeareSettings
from plasticity.envs.tasks.transformed_tasks import TaskStreamSettings

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("wanted", "device", "size", "place"),
    [
        ("auto", CPU, 10**12, CPU),
        ("device", CPU, 1, CPU),
        ("auto", CUDA, 25, CUDA),  # six copies fill the 150 bytes that are free
        ("auto", CUDA, 26, CPU),
        ("device", CUDA, 26, CUDA),
        ("cpu", CUDA, 1, CPU),
    ],
)
def test_data_are_kept_on_the_device_if_they_fit(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    wanted: str,
    device: torch.device,
    size: int,
    place: torch.device,
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (150, 1000))
    assert place_of_data(wanted, device, size) == place
    told = capsys.readouterr().err
    assert ("stay on the cpu" in told) == ((wanted, size) == ("auto", 26))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_data_on_the_cpu_are_those_on_the_device() -> None:
    changes: dict[str, Any] = {"batch_size": 100, "flip_probability": 0.5, "crop_padding": 1, "rotation_degrees": 15.0}
    changes |= {"pixel_mean": [0.3], "pixel_std": [0.4]}
    streams = [build_stream(TaskStreamSettings(keep_on=place, **changes), 3, CUDA)[0] for place in ("cpu", "device")]
    for _ in range(40):  # into the third task
        one, other = (stream.advance(lambda observations: observations).batch for stream in streams)
        assert [part.inputs.device.type for part in (one, other)] == ["cpu", "cuda"]  # type: ignore[union-attr]
        assert torch.equal(one.inputs, other.inputs.cpu())  # type: ignore[union-attr]
        assert torch.equal(one.targets, other.targets.cpu())  # type: ignore[union-attr]


@pytest.mark.parametrize("mode", ["continual", "growing"])
def test_parts_of_a_data_set_share_a_place(monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    asked: list[int] = []
    monkeypatch.setattr(
        "plasticity.envs.tasks.task_settings.place_of_data", lambda wanted, device, size: (asked.append(size), CPU)[1]
    )
    build_stream(TaskStreamSettings(mode=mode, test=True), 0, CPU)
    assert asked == [1797 * 64 * 4]  # digits: training and test set together


def test_an_unknown_place_is_refused() -> None:
    with pytest.raises(ValueError, match=r"env\.keep_on=gpu is unknown.*; choose from auto, device, cpu"):
        ShakespeareSettings(keep_on="gpu")
