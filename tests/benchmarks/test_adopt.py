"""The cost of an adopted network, with few steps."""

import re
from collections.abc import Iterator

import pytest
import torch

from benchmarks import adopt


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_each_loop_is_compared_with_the_plain_one(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adopt, "_MEASURE_EVERY", 50)
    adopt.main(["--rounds", "1", "--steps", "100", "--train-every", "10"])
    rows = re.findall(r"an update every 10 steps, (.*): ([\d.]+)", capsys.readouterr().out)
    assert [name for name, _ in rows] == [adopt.PLAIN, adopt.AGAIN, adopt.HOOKED, adopt.ADOPTED]
    assert float(rows[0][1]) == 1.0
    assert all(float(ratio) > 0 for _, ratio in rows)
