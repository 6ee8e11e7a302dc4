"""The examples run."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.training.test_stock_runner import run, runner_config

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.slow
def test_steering(embedded_model, tmp_path):
    run(runner_config("poly_topk", tmp_path, training_tokens=16384), embedded_model)
    finished = subprocess.run(
        [sys.executable, EXAMPLES / "steer_with_an_interaction.py", tmp_path / "output"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    assert "s (d_i + d_j) + s^2 B_ij" in finished.stdout
