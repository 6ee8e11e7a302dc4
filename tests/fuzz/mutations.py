"""Ways to damage files, each a function of a random generator.

A mutation returns what it did, in words; one that begins with ``!`` must be refused, whatever else
is taken.
"""

from __future__ import annotations

import json
import pickle
import random
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

CANARY = Path("/tmp/sae-lens-poly-fuzz-canary")


class Payload:
    """Would write a file if it were unpickled."""

    def __reduce__(self) -> Any:
        return Path.write_text, (CANARY, "run")


#: What stands in place of a value. Whether it is wrong depends on the place.
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 3, 2**31, 2**63, -(2**70), 10**40),
    *(0.5, -0.0, 1e-300, 1e308, float("nan"), float("inf"), -float("inf")),
    *("", "x", "0", "nan", "..", "../../..", "/", "~", "\0", "é\u2028", "x" * 70_000),
    *("a.{1..9999}.b.{1..9999}.c.{1..9999}", "blocks.{5..1}.hook_resid_post", "{" * 500),
    *("../../etc/passwd", "float16", "torch.float64", "cuda", "meta", "9.9.9", "not a version"),
    *([], [0], [None], ["x", 1], [[[]]], [float("nan")], [1.0] * 5000),
    *({}, {"": None}, {"a": {"b": {"c": [1]}}}, {"trust_remote_code": True}),
)


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of nested dicts and lists."""
    found = []
    entries = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, part in list(entries):
        found += [(value, key), *places(part)]
    return found


def change_json(rng: random.Random, path: Path) -> str:
    """Replace, remove, rename or retype a value; or the whole."""
    content = json.loads(path.read_text(encoding="utf-8"))
    kind = rng.random()
    if kind < 0.06:
        content = rng.choice(VALUES)
        what = f"is {content!r:.40}"
    else:
        container, key = rng.choice(places(content))
        if kind < 0.16:
            del container[key]
            what = f"without {key}"
        elif kind < 0.22 and isinstance(container, dict):
            container[f"{key}_"] = container.pop(key)
            what = f"{key} renamed"
        elif kind < 0.36:
            old = container[key]
            container[key] = [old] if rng.random() < 0.5 else str(old)
            what = f"{key}={container[key]!r:.40}"
        else:
            container[key] = rng.choice(VALUES)
            what = f"{key}={container[key]!r:.40}"
    path.write_text(json.dumps(content), encoding="utf-8")
    return what


def change_bytes(rng: random.Random, path: Path) -> str:
    """Cut, overwrite, lengthen or empty a file."""
    content = bytearray(path.read_bytes())
    kind = rng.choice(("cut", "overwritten", "longer", "empty", "flipped", "zeros"))
    at = rng.randrange(len(content))
    if kind == "cut":
        content = content[:at]
    elif kind == "overwritten":
        content[at : at + 64] = rng.randbytes(len(content[at : at + 64]))
    elif kind == "longer":
        content += rng.randbytes(100)
    elif kind == "empty":
        content = bytearray()
    elif kind == "flipped":
        content[at] ^= 1 << rng.randrange(8)
    else:
        content = bytearray(len(content))
    path.write_bytes(content)
    return f"{kind} at {at}"


def other_file(rng: random.Random, path: Path) -> str:
    """Something else under the file's name."""
    others: dict[str, Callable[[], Any]] = {
        "pickle": lambda: path.write_bytes(pickle.dumps({"W_enc": Payload()})),
        "torch.save": lambda: torch.save({"W_enc": Payload()}, path),
        "zip bomb": lambda: _zip_bomb(path),
        "deep": lambda: path.write_text("[" * 200_000),
        "deep object": lambda: path.write_text('{"a":' * 50_000),
        "large": lambda: path.write_text("{" + " " * 20_000_000 + "}"),
        "many digits": lambda: path.write_text('{"a": ' + "9" * 10_000 + "}"),
        "UTF-16": lambda: path.write_text('{"a": 1}', encoding="utf-16"),
        "large header": lambda: path.write_bytes((2**40).to_bytes(8, "little") + b"{}"),
        "header of spaces": lambda: path.write_bytes(
            (10_000_000).to_bytes(8, "little") + b"{" + b" " * 9_999_998 + b"}"
        ),
        "overlapping tensors": lambda: _header(
            path, {n: _entry("F32", [32], 0, 128) for n in ("W_enc", "W_dec")}, 128
        ),
        "tensor beyond the end": lambda: _header(path, {"W_enc": _entry("F32", [2**40], 0, 2**42)}),
        "negative offsets": lambda: _header(path, {"W_enc": _entry("F32", [1], -4, 0)}),
        "unknown dtype": lambda: _header(path, {"W_enc": _entry("X9", [1], 0, 4)}, 4),
        "folder": lambda: path.mkdir(),
        "link to itself": lambda: path.symlink_to(path.name),
        "missing": lambda: None,
    }
    kind = rng.choice(list(others))
    path.unlink()
    others[kind]()
    return f"! {kind}" if kind in ("pickle", "torch.save", "zip bomb") else kind


def _entry(dtype: str, shape: list[int], start: int, end: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def _header(path: Path, header: dict[str, Any], n_bytes: int = 0) -> None:
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(n_bytes))


def _zip_bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", bytes(50_000_000))
        file.writestr("archive/version", "3\n")


def change_tensors(rng: random.Random, path: Path) -> str:
    """Give a tensor of a safetensors file another dtype, shape, name or other numbers."""
    tensors = load_file(path)
    large = [name for name, tensor in tensors.items() if tensor.ndim > 0 and tensor.numel() > 1]
    name = rng.choice(large or list(tensors))
    tensor = tensors[name]
    weights = name in ("W_enc", "W_dec")
    kind = rng.choice(
        (
            *("int64", "int8", "bool", "float16", "bfloat16", "float64"),
            *("nan", "inf", "all nan", "zeros", "large", "row", "transposed", "flat", "empty"),
            *("missing", "renamed", "extra", "scalar", "wide"),
        )
    )
    must = kind in ("nan", "inf", "all nan", "int64", "int8", "bool", "float16", "bfloat16")
    must &= tensor.is_floating_point() and tensor.numel() > 1
    must |= weights and kind in ("zeros", "missing", "row", "empty", "scalar")
    if hasattr(torch, kind) and isinstance(dtype := getattr(torch, kind), torch.dtype):
        tensors[name] = tensor.to(dtype)
    if kind in ("nan", "inf", "large"):
        changed = tensor.clone().float()
        value = {"nan": float("nan"), "inf": -float("inf"), "large": 1e38}[kind]
        changed.view(-1)[rng.randrange(tensor.numel())] = value
        tensors[name] = changed
    elif kind == "all nan":
        tensors[name] = torch.full(tensor.shape, float("nan"))
    elif kind == "zeros":
        tensors[name] = torch.zeros_like(tensor)
    elif kind == "row":
        tensors[name] = tensor[: max(1, len(tensor) // 2)].clone() if tensor.ndim else tensor
    elif kind == "transposed":
        tensors[name] = tensor.T.contiguous() if tensor.ndim == 2 else tensor.flip(0)
    elif kind == "flat":
        tensors[name] = tensor.reshape(-1)
    elif kind == "empty":
        tensors[name] = torch.zeros(0)
    elif kind == "missing":
        del tensors[name]
    elif kind == "renamed":
        tensors[f"{name}2"] = tensors.pop(name)
    elif kind == "extra":
        tensors["extra"] = torch.ones(1000)
    elif kind == "scalar":
        tensors[name] = torch.ones(())
    elif kind == "wide":
        tensors[name] = torch.ones(512, 4096)
    save_file(tensors, path)
    return f"{'! ' if must else ''}{name} {kind}"


def change_state(rng: random.Random, path: Path) -> str:
    """Change a value in what ``torch.save`` wrote."""
    state = torch.load(path, weights_only=True)
    container, key = rng.choice(places(state))
    old = container[key]
    if isinstance(old, torch.Tensor):
        kind = rng.choice(("nan", "shape", "dtype", "value", "missing"))
        must = kind == "nan" and old.is_floating_point()
        if kind == "nan":
            container[key] = torch.full_like(old.float(), float("nan"))
        elif kind == "shape":
            container[key] = torch.zeros(7, 3)
        elif kind == "dtype":
            container[key] = old.to(torch.int8)
        elif kind == "value":
            container[key] = rng.choice(VALUES)
        else:
            del container[key]
        what = f"{'! ' if must else ''}{key} {kind}"
    elif rng.random() < 0.2:
        del container[key]
        what = f"without {key}"
    else:
        container[key] = rng.choice(VALUES)
        what = f"{key}={container[key]!r:.40}"
    torch.save(state, path)
    return what


def change_text(rng: random.Random, path: Path) -> str:
    """Remove, repeat, swap or damage lines of a text file."""
    lines = path.read_text(encoding="utf-8").splitlines()
    at = rng.randrange(len(lines))
    kind = rng.choice(("missing", "repeated", "swapped", "indented", "cut", "latin-1", "quoted"))
    if kind == "missing":
        del lines[at]
    elif kind == "repeated":
        lines.insert(at, lines[at])
    elif kind == "swapped":
        other = rng.randrange(len(lines))
        lines[at], lines[other] = lines[other], lines[at]
    elif kind == "indented":
        lines[at] = f"   {lines[at]}"
    elif kind == "cut":
        lines[at] = lines[at][: rng.randrange(len(lines[at]) + 1)]
    elif kind == "quoted":
        lines[at] = f'"{lines[at]}'
    text = "\n".join(lines)
    if kind == "latin-1":
        path.write_bytes(text.encode() + b"\n# \xe9\xff")
    else:
        path.write_text(text, encoding="utf-8")
    return f"line {at} {kind}"


def copy_of(source: Path, target: Path) -> Path:
    """A fresh copy of a file or folder."""
    if target.exists() or target.is_symlink():
        shutil.rmtree(target) if target.is_dir() else target.unlink()
    return Path(shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target))
