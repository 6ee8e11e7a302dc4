"""Devices that a user names."""

from __future__ import annotations

from sae_lens_poly.errors import InputError, first_line


def check_device(field: str, device: str) -> None:
    """Refuse a device that this machine does not have.

    Raises:
        InputError: Naming the field, the device and what torch says.
    """
    if device == "cpu":
        return
    import torch  # slow, and not needed for the usual answer

    try:
        if torch.device(device).type == "meta":
            raise ValueError("it computes nothing")
        torch.empty(0, device=device)
    except Exception as error:
        raise InputError(
            f"{field}={device!r} cannot be used here ({first_line(error)[:200]}): give 'cpu', or "
            "a device that this machine has"
        ) from None
