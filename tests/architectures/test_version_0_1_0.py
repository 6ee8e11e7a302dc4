"""Every kind of dictionary that version 0.1.0 saved loads, with the same codes and reconstructions.

The data were written by that version: configs and weights of 74 dictionaries, in training and for
inference, with activations, codes and reconstructions.
"""

import json
from pathlib import Path

import pytest
import torch
from sae_lens import SAE, TrainingSAE
from safetensors import safe_open
from safetensors.torch import save_file

from sae_lens_poly.architectures.decoders.powers import Powers
from sae_lens_poly.architectures.decoders.term import gain

DATA = Path(__file__).parents[1] / "data" / "version_0_1_0"
CONFIGS = json.loads((DATA / "configs.json").read_text(encoding="utf-8"))


def saved(key, folder):
    """The folder as version 0.1.0 wrote it, and what it computed."""
    folder.mkdir(exist_ok=True)
    (folder / "cfg.json").write_text(json.dumps(CONFIGS[key]["config"]), encoding="utf-8")
    with safe_open(DATA / "dictionaries.safetensors", framework="pt") as file:
        prefix = f"{key}/weights/"
        names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118
        weights = {name.removeprefix(prefix): file.get_tensor(name) for name in names}
        found = [file.get_tensor(f"{key}/{part}") for part in ("x", "codes", "reconstruction")]
    save_file(weights, folder / "sae_weights.safetensors")
    return found


@pytest.mark.parametrize(
    "key",
    CONFIGS,
    ids=[f"{c['name']}, {'tr' if c['training'] else 'inf'}" for c in CONFIGS.values()],
)
@torch.no_grad()
def test_it_loads_and_is_the_same(key, tmp_path):
    x, codes, reconstruction = saved(key, tmp_path / "old")
    loader = TrainingSAE if CONFIGS[key]["training"] else SAE
    sae = loader.load_from_disk(tmp_path / "old")
    torch.testing.assert_close(sae.encode(x), codes, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(sae.decode(codes), reconstruction, rtol=1e-5, atol=1e-4)

    sae.save_model(tmp_path / "new")  # and what is saved today loads just as well
    again = loader.load_from_disk(tmp_path / "new")
    torch.testing.assert_close(again.encode(x), codes, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(again.decode(codes), reconstruction, rtol=1e-5, atol=1e-4)


@torch.no_grad()
def test_powers_of_files_from_before_they_were_scaled_down_stay_as_they_are():
    module = Powers(6, 8, {2: 3, 3: 2}, dtype=torch.float64)
    for B in module.B.values():
        B.normal_()
    z = torch.rand(4, 8, dtype=torch.float64)
    state = module.state_dict()
    del state["scaled_down"]
    old = Powers(6, 8, {2: 3, 3: 2}, dtype=torch.float64)
    old.load_state_dict(state)
    today, before = (
        term.terms(term.sums(z, z.new_zeros(4, 6), lambda: z.new_zeros(8, 6)))
        for term in (module, old)
    )
    for degree, rank in module.ranks.items():
        W = module.A[str(degree)] @ module.B[str(degree)]
        torch.testing.assert_close(before[degree], z**degree @ W)
        torch.testing.assert_close(today[degree], gain(degree, rank) * z**degree @ W)
