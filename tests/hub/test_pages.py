"""The way from training to a dictionary loaded from the hub, copied from the pages that show it."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_cli import SMALL

ROOT = Path(__file__).parents[2]


def blocks(page, heading):
    """The code blocks of a section: language and content."""
    section = re.search(rf"# {heading}\n(.*?)(\n##? |$)", (ROOT / page).read_text(), re.DOTALL)
    return re.findall(r"```(\w*)\n(.*?)```", section[1], re.DOTALL)


@pytest.mark.slow
def test_copied_commands(hub, tmp_path):
    (shell, commands), (python, loading) = blocks("docs/hub.md", "The hub")
    assert (shell, python) == ("", "python")
    assert 'SAE.from_pretrained("USER/crosscoders", "stdlib/all-layers")' in loading
    ((python, five_lines),) = blocks("README.md", "Load from the hub")
    assert python == "python"
    for old, new in {
        "USER/REPOSITORY": "USER/crosscoders",
        "PATH/IN/IT": "stdlib/all-layers",
    }.items():
        assert old in five_lines
        five_lines = five_lines.replace(old, new)
    small = shlex.join([*SMALL, "--hook_name", "blocks.{1..2}.hook_resid_post"])
    # What takes long is made short, and logging in is a token; the rest is as it is there.
    replaced = {
        "make train": f"$PYTHON -m sae_lens_poly train {small}",
        ".venv/bin/hf auth login\n": "",
        ".venv/bin/sae-lens-poly": "$PYTHON -m sae_lens_poly",
        "evaluate USER/crosscoders:stdlib/all-layers": "evaluate USER/crosscoders:stdlib/all-layers"
        " --n_batches 1 --probing",
        "USER": "somebody",
    }
    for old, new in replaced.items():
        assert old in commands
        commands = commands.replace(old, new)
    printed = "\nprint(type(sae).__name__, sae.cfg.d_sae)\n"
    activations = "\nimport torch\nactivations = torch.ones(3, 2 * 128)\n"
    shape = "\nprint(tuple(codes.shape))\n"
    (tmp_path / "load.py").write_text(
        (loading + printed + activations + five_lines + shape).replace("USER", "somebody")
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
    assert finished.stdout.endswith("Crosscoder 128\n(3, 128)\n")
    assert "stdlib/all-layers/sae_weights.safetensors" in hub.files("somebody/crosscoders")
