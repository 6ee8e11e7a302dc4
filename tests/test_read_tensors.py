"""Files of tensors that are not what their names say."""

import pickle
import zipfile

import pytest
import torch
from safetensors.torch import save_file

from sae_lens_poly import InputError
from sae_lens_poly.read_tensors import read_header, read_torch, require_tensors


def test_headers_of_tensors(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"W": torch.zeros(2, 3), "n": torch.tensor(4)}, path)
    header = read_header(path)
    assert header["W"].is_floating
    assert header["W"].shape == (2, 3)
    assert not header["n"].is_floating
    require_tensors(path, {"W": ("floating", (2, 3)), "n": ("I64", ())})
    for wanted, words in (
        ({"W": ("floating", (2, 3))}, "'n', which does not belong"),
        ({"W": ("floating", (3, 2)), "n": ("I64", ())}, r"W is F32 \(2, 3\)"),
        ({"W": ("I64", (2, 3)), "n": ("I64", ())}, "W is F32"),
        ({"W": ("floating", (2, 3)), "n": ("I64", ()), "m": ("I64", ())}, "it has no m"),
    ):
        with pytest.raises(InputError, match=words):
            require_tensors(path, wanted)


class Payload:
    def __reduce__(self):
        return print, ("run",)


def test_pickles_are_not_run(tmp_path, capsys):
    path = tmp_path / "x.safetensors"
    path.write_bytes(pickle.dumps(Payload()))
    with pytest.raises(InputError, match="is a pickle"):
        read_header(path)
    torch.save({"W": Payload()}, path)
    with pytest.raises(InputError, match="is a pickle"):
        read_header(path)
    with pytest.raises(InputError, match="is damaged"):
        read_torch(path)
    assert capsys.readouterr().out == ""


def test_what_unpacks_to_more_than_it_is(tmp_path):
    path = tmp_path / "state.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", bytes(10**6))
    with pytest.raises(InputError, match="compressed"):
        read_torch(path)
    path.write_bytes((2**50).to_bytes(8, "little"))
    with pytest.raises(InputError, match="header claims more"):
        read_header(path)
