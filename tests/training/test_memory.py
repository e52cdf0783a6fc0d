"""Freed memory stays with the process."""

import platform
import subprocess
import sys

from plasticity.training.memory import keep_freed_memory

FAULTS = """
import resource
import torch
from plasticity.training.memory import keep_freed_memory
torch.set_num_threads(1)
{advice}
def pages():
    held = [torch.ones(5_000_000) for _ in range(5)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    pages()
before = pages()
for _ in range(9):
    after = pages()
print(after - before)
"""


def faults(advice: str) -> int:
    run = subprocess.run([sys.executable, "-c", FAULTS.format(advice=advice)], capture_output=True, text=True, check=True)
    return int(run.stdout)


def test_the_advice_is_taken_where_there_is_glibc() -> None:
    if platform.libc_ver()[0] != "glibc":
        assert not keep_freed_memory()
        return
    assert faults("assert keep_freed_memory()") < 500  # of 220,000 pages; without the advice most are often taken again
