"""circuit-tracer's folders, written and read again."""

import pytest
import torch
import yaml
from sae_lens import SAE
from safetensors.torch import load_file

from sae_lens_poly import InputError
from sae_lens_poly.formats.convert import PublicFormat, write_public
from tests.circuits.crosscoders import cross_layer, names_of
from tests.formats.folders import CASES

BY_PATH = {case.path: case for case in CASES}


def dictionary(**fields):
    """Of three layers: latents read hook_resid_mid and write hook_mlp_out."""
    metadata = {"hook_names": names_of(3), "model_name": "tiny", "sae_lens_version": "6.54.0"}
    return cross_layer(**{"dtype": "float32", "d_sae": 12, "metadata": metadata, **fields})


def read(folder):
    return SAE.load_from_disk(folder, converter=PublicFormat()).requires_grad_(False)


WITHIN = {"writes": "3;4;5"}


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize(
    ("name", "fields"), [("circuit_tracer_clt", {}), ("circuit_tracer_set", WITHIN)]
)
def test_it_comes_back(tmp_path, name, fields, centred):
    sae = dictionary(apply_b_dec_to_input=centred, **fields)
    if name == "circuit_tracer_set":
        sae = with_skips(sae)
    write_public(sae, tmp_path / "theirs", name)
    config = yaml.safe_load((tmp_path / "theirs/config.yaml").read_text())
    assert config["model_name"] == "tiny"
    assert config["feature_input_hook"] == "hook_resid_mid"
    back = read(tmp_path / "theirs")
    assert back.cfg.metadata.hook_names == sae.cfg.metadata.hook_names
    x = torch.randn(20, sae.cfg.d_in)
    x[:, sae.cfg.d_in // 2 :] = 0
    assert torch.equal(back.encode(x) != 0, sae.encode(x) != 0)
    torch.testing.assert_close(back.encode(x), sae.encode(x))
    half = slice(sae.cfg.d_in // 2, None)
    torch.testing.assert_close(back(x)[:, half], sae(x)[:, half])


def with_skips(sae):
    """The same weights with a matrix from each input to its output."""
    d = sae.d_model
    new = dictionary(
        skips="0>3;1>4;2>5", apply_b_dec_to_input=sae.cfg.apply_b_dec_to_input, **WITHIN
    )
    for matrix in new.skips:
        matrix.copy_(torch.randn(d, d))
    return new


@pytest.mark.parametrize("path", ["circuit_tracer_clt/relu", "circuit_tracer_transcoder_set/relu"])
def test_official_files_are_written_as_they_were(tmp_path, path):
    case = BY_PATH[path]
    name = {"circuit_tracer_clt": "clt", "circuit_tracer_transcoder_set": "set"}[path.split("/")[0]]
    write_public(case.load(), tmp_path / "theirs", f"circuit_tracer_{name}")
    for file in case.folder.glob("*.safetensors"):
        if file.name != "reference.safetensors":
            found = load_file(tmp_path / "theirs" / file.name)
            thresholds = [found.pop(key) for key in list(found) if "threshold" in key]
            assert all(not threshold.any() for threshold in thresholds)
            expected = load_file(file)
            assert found.keys() == expected.keys()
            for key, tensor in expected.items():
                assert torch.equal(found[key], tensor)


def test_a_weakly_causal_crosscoder(tmp_path):
    """It reads and writes the same hook points, one for each layer."""
    names = [f"blocks.{i}.hook_resid_post" for i in range(6)]
    metadata = {"hook_names": names, "model_name": "tiny"}
    structure = {"structure": "weakly_causal", "reads": None, "writes": None}
    sae = dictionary(metadata=metadata, **structure)
    write_public(sae, tmp_path / "theirs", "circuit_tracer_clt")
    back = read(tmp_path / "theirs")
    x = torch.randn(20, sae.cfg.d_in)
    stacked = torch.cat([x, torch.zeros_like(x)], dim=1)
    torch.testing.assert_close(back.encode(stacked), sae.encode(x))
    torch.testing.assert_close(back(stacked)[:, sae.cfg.d_in :], sae(x))


def other_names(*names):
    return {"metadata": {"hook_names": list(names), "model_name": "tiny"}}


CLT, SET = "circuit_tracer_clt", "circuit_tracer_set"
REFUSED = {
    "polynomial": ({"decoder": "degree 2"}, CLT, "linear decoders"),
    "cosine": ({"encoder_score": "cosine"}, CLT, "encoder_score='cosine'"),
    "selected": ({"select_k": 3}, CLT, "select_k=3"),
    "several inputs": (
        {"structure": "acausal", "reads": None, "writes": None},
        CLT,
        "latent 0 reads 6 hook points",
    ),
    "backwards": ({"reads": "2;1;0"}, CLT, "latent 0 reads layer 2 and writes one before"),
    "unequal": ({"d_sae": 13}, CLT, "d_sae=13: layers have 4 to 5 latents"),
    "not all layers": (
        other_names(*(f"blocks.{i}.{at}" for at in ("a", "b") for i in (1, 2, 3))),
        CLT,
        "all layers of a model from 0 on",
    ),
    "other names": (
        other_names("blocks.0.a", "blocks.1.b", "blocks.2.a", *names_of(3)[3:]),
        CLT,
        "must have one name",
    ),
    "no layer": (other_names("embed", *names_of(3)[1:]), CLT, "'embed' belongs to no layer"),
    "no names": ({"metadata": {"model_name": "tiny"}}, CLT, "hook_names"),
    "no model": ({"metadata": {"hook_names": names_of(3)}}, CLT, "--model_name"),
    "a skip": ({"skips": "0>3"}, CLT, "skips='0>3': circuit-tracer reads no skip"),
    "a skip across layers": ({**WITHIN, "skips": "0>4"}, SET, "skips within a layer alone"),
    "later layers": ({}, SET, "latents of layer 0 write later layers"),
    "read only": ({}, "sparsify", "only these formats are written: circuit_tracer_clt"),
    "no such format": ({}, "other", "format='other' is none of"),
}


@pytest.mark.parametrize(("fields", "name", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_fit_is_refused(tmp_path, fields, name, reason):
    selected = fields.get("select_k")
    sae = dictionary(**{k: v for k, v in fields.items() if k != "select_k"})
    sae.cfg.select_k = selected
    with pytest.raises(InputError, match=reason):
        write_public(sae, tmp_path / "theirs", name)
    assert not (tmp_path / "theirs").exists()
