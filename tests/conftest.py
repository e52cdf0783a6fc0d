import gc
import os
import sys
from collections.abc import Iterator
from functools import cache

import absl.logging
import pytest
import torch

from plasticity.envs.datasets import digits

# On networks of this size a second thread costs more than it brings, and many times more next to another test process.
torch.set_num_threads(1)

# Making a library of a compiled function takes three times as long as compiling it for one process, and few are needed twice.
os.environ["PLASTICITY_COMPILED"] = "off"

# Logging's configuration, which Hydra calls, closes handlers, and absl's closes what was sys.stderr when a library imported it:
# within a test that is the file into which pytest captures.
absl.logging.get_absl_handler().python_handler.stream = sys.__stderr__


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
