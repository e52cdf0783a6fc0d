import time
from pathlib import Path

import numpy as np
import pytest
from run_folders import config_of, finished, write_run

from plasticity.training.reports.analysis.findings import find
from plasticity.training.reports.analysis.numbers import Numbers
from plasticity.training.reports.comparison import read_comparison


@pytest.mark.slow
def test_200_runs_of_10_000_rows_take_less_than_20_seconds(tmp_path: Path) -> None:
    """About 6 s of processor time on one core of an AMD EPYC with AVX2; the table itself has 25 bytes a row."""
    names, values = [f"plasticity/metric_{k}" for k in range(99)], np.random.default_rng(0).random(10_000)
    rows = [(100 * (1 + k // 100), [*names, "rollout/return"][k % 100], value) for k, value in enumerate(values)]
    for number in range(200):
        interventions = {"redo": {"threshold": number % 10 / 10}} if number % 10 else {}
        write_run(tmp_path / str(number), config_of(number // 10, 10_000, interventions), rows, status=finished(10_000))
    start = time.process_time()
    comparison = read_comparison([tmp_path])
    find(comparison, Numbers())
    assert time.process_time() - start < 20
    assert len(comparison.values) == 2_000_000
    assert comparison.values.memory_usage(deep=True).sum() < 30 * 2_000_000
