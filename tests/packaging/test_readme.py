"""The README: its length, its first screen, its links, and that what it shows runs."""

import re
from pathlib import Path

import pytest
import torch

from sae_lens_poly import TrainingPolyCrosscoderConfig

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def test_one_screen():
    text = README.read_text()
    assert len(text.encode()) <= 7168
    first = text.splitlines()[:40]
    for command in ("make train", "make test"):
        assert any(line.startswith(command) for line in first)
    (picture,) = re.findall(r"!\[.+\]\((.+)\)", text)
    assert (ROOT / picture).read_text().startswith("<svg")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert target.startswith("https://") or (page.parent / target).exists(), target


@pytest.mark.slow
def test_training_from_python(tmp_path, monkeypatch):
    (block,) = re.findall(r"From Python:\n\n```python\n(.*?)```", README.read_text(), re.DOTALL)
    for old, new in {
        '"gpt2"': '"stdlib-6l"',
        "Skylion007/openwebtext": "stdlib",
        "{2..9}": "{1..2}",
        "d_sae=16384, k=64": "d_sae=128, k=8",
        "300_000_000": "16384, context_size=64, n_batches_in_buffer=16, store_batch_size_prompts=4",
        "=4096": "=256",
        "lr=3e-4": "lr=3e-3",
        '"cuda"': '"cpu"',
    }.items():
        assert old in block
        block = block.replace(old, new)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(compile(block, README, "exec"), names)
    sae, cfg = names["crosscoder"], names["cfg"]
    assert isinstance(cfg.sae, TrainingPolyCrosscoderConfig)
    assert sae.cfg.metadata.hook_names == [f"blocks.{i}.hook_resid_post" for i in (1, 2)]
    # It has learnt something: the mean of the training text alone would explain nothing.
    x = names["model"].gather(names["model"].to_tokens("def read(path):\n    return open(path)"))
    with torch.no_grad():
        error, spread = sae(x) - x, x - x.mean((0, 1))
    assert error[:, 1:].square().sum() < spread[:, 1:].square().sum()
