import gc
from collections.abc import Iterator
from functools import cache

import pytest
import torch

from plasticity.envs.datasets import digits

# On networks of this size a second thread costs more than it brings, and many times more beside another test process.
torch.set_num_threads(1)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Keeps the collector of garbage from looking again and again at modules and at thousands of collected tests."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


@pytest.fixture(scope="session", autouse=True)
def _digits_are_read_once() -> Iterator[None]:
    """Hundreds of runs read the same file, which takes longer than most of a short run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digits, "read_digits", cache(digits.read_digits))
        yield
