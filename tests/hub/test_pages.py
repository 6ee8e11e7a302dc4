"""The README's way from training to a dictionary that is loaded from the hub, copied."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_cli import SMALL

ROOT = Path(__file__).parents[2]


def blocks():
    """The code blocks of the section."""
    text = (ROOT / "README.md").read_text()
    section = re.search(r"## From the hub and to the hub\n(.*?)\n## ", text, re.DOTALL)
    return re.findall(r"```(\w*)\n(.*?)```", section[1], re.DOTALL)


def test_copied_commands(hub, tmp_path):
    (shell, commands), (python, loading) = blocks()
    assert (shell, python) == ("", "python")
    assert 'SAE.from_pretrained("USER/crosscoders", "stdlib/all-layers")' in loading
    small = shlex.join([*SMALL, "--hook_name", "blocks.{1..2}.hook_resid_post"])
    # What takes long is made short, and logging in is a token; the rest is as it is there.
    replaced = {
        "make train": f"$PYTHON -m sae_lens_poly train {small}",
        ".venv/bin/hf auth login\n": "",
        ".venv/bin/python": "$PYTHON",
        "evaluate USER/crosscoders:stdlib/all-layers": "evaluate USER/crosscoders:stdlib/all-layers"
        " --n_batches 1 --probing",
        "USER": "somebody",
    }
    for old, new in replaced.items():
        assert old in commands
        commands = commands.replace(old, new)
    (tmp_path / "load.py").write_text(
        loading.replace("USER", "somebody") + "\nprint(type(sae).__name__, sae.cfg.d_sae)\n"
    )
    environment = {
        **os.environ,
        "PYTHON": sys.executable,
        "HF_TOKEN": "hf_secret",
        "HF_HUB_CACHE": str(tmp_path / "cache"),
        "HF_HUB_OFFLINE": "0",
        "PYTHONPATH": str(ROOT),
    }
    finished = subprocess.run(
        ["bash", "-ec", commands + "$PYTHON load.py\n"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if finished.returncode:
        pytest.fail(finished.stderr[-2000:])
    assert "pooled / all spliced" in finished.stdout.split("uploaded:")[1]
    assert finished.stdout.endswith("Crosscoder 128\n")
    assert "stdlib/all-layers/sae_weights.safetensors" in hub.files("somebody/crosscoders")
