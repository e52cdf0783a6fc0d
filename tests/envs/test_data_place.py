import pytest
import torch

from envs.data_place import place_of_data
from envs.data_settings import ShakespeareSettings, TaskStreamSettings
from envs.factory import build_stream

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("wanted", "device", "size", "place"),
    [
        ("auto", CPU, 10**12, CPU),
        ("device", CPU, 1, CPU),
        ("auto", CUDA, 25, CUDA),  # four copies fill the 100 bytes that are free
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
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (100, 1000))
    assert place_of_data(wanted, device, size) == place
    told = capsys.readouterr().err
    assert ("stay on the cpu" in told) == ((wanted, size) == ("auto", 26))


def test_data_on_the_cpu_are_those_of_the_device() -> None:
    # The device itself is that of the suite; on the CPU this says that the setting changes nothing else.
    streams = [
        build_stream(TaskStreamSettings(keep_on=place, batch_size=100, rotation_degrees=10.0), 3, CPU)[0]
        for place in ("cpu", "device")
    ]
    for _ in range(40):  # into the third task
        one, other = (stream.advance(lambda observations: observations) for stream in streams)
        assert torch.equal(one.batch.inputs, other.batch.inputs)  # type: ignore[union-attr]
        assert torch.equal(one.batch.targets, other.batch.targets)  # type: ignore[union-attr]


def test_an_unknown_place_is_refused() -> None:
    with pytest.raises(ValueError, match=r"env\.keep_on=gpu is unknown; choose from auto, device, cpu"):
        ShakespeareSettings(keep_on="gpu")
