"""Devices that a user names."""

from __future__ import annotations

import runpy
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sae_lens_poly.errors import InputError, first_line


def check_device(field: str, device: str) -> None:
    """Refuse a device that this machine does not have.

    Raises:
        InputError: Naming the field, the device and what torch says.
    """
    if device == "cpu":
        return
    try:
        kind = device.partition(":")[0]
        if kind == "meta":
            raise ValueError("it computes nothing")
        built_for = _torch_is_built_for()
        if kind == "cuda" and built_for and not (built_for.get("cuda") or built_for.get("hip")):
            raise ValueError("this build of torch has no CUDA")
        import torch  # slow, so only where it has to be asked

        torch.empty(0, device=device)
    except Exception as error:
        raise InputError(
            f"{field}={device!r} cannot be used here ({first_line(error)[:200]}): give 'cpu', or "
            "a device that this machine has"
        ) from None


def _torch_is_built_for() -> dict[str, Any]:
    """What torch's own record of its build says; nothing where there is none."""
    spec = find_spec("torch")
    record = Path(spec.origin or "").with_name("version.py") if spec else Path()
    return runpy.run_path(str(record)) if record.is_file() else {}
