"""Dictionaries that are not one of ours exactly are refused, with the reason."""

import json

import pytest
import torch

from sae_lens_poly import InputError
from sae_lens_poly.formats.base import ReadingOptions
from sae_lens_poly.formats.convert import PublicFormat, read_public
from sae_lens_poly.formats.files import Files
from tests.formats.damaged import Copy
from tests.formats.folders import CASES, Case

BY_PATH = {case.path: case for case in CASES}
NORMALISED = "dictionary_learning_crosscoder/head_batchtopk_pt_sae_norm"


def changed_tensors(**tensors):
    def change(copy):
        copy.change(lambda found: {**found, **tensors})

    return change


def configured(**fields):
    return lambda copy: copy.configure(**fields)


def activation(classname, **cfg):
    return configured(activation_fn={"classname": classname, "cfg": cfg})


def with_bias(copy):
    copy.change(lambda found: {**found, "post_encs.1": torch.ones(24)})


def negative(copy):
    copy.change(lambda found: {**found, "threshold_0": torch.full((12,), -0.1)})


def scales_of_each_dimension(copy):
    shape = (3, 6)
    copy.change(
        lambda found: {
            **found,
            "activation_mean": torch.zeros(shape),
            "activation_std": torch.ones(shape),
            "activation_global_scale": torch.tensor(1.0),
            "target_rms": torch.tensor(3.0),
        }
    )


REFUSED = {
    "a code for each hook point": (
        NORMALISED,
        changed_tensors(code_normalization_id=torch.tensor(5)),
        "a code for each hook point",
    ),
    "weights of norms elsewhere": (
        NORMALISED,
        changed_tensors(code_normalization_id=torch.tensor(3)),
        "alpha_sae and alpha_cc stand in config.json",
    ),
    "a norm that is no number": (
        NORMALISED,
        changed_tensors(code_normalization_id=torch.tensor(torch.nan)),
        "code_normalization_id=nan",
    ),
    "a threshold that is no number": (
        NORMALISED,
        changed_tensors(threshold=torch.tensor(torch.nan)),
        "threshold has NaN",
    ),
    "hook points below none": (
        "crosscode/acausal_relu",
        configured(n_models=-1),
        "n_models, n_hookpoints",
    ),
    "half a latent": (
        "circuit_tracer_transcoder_set/topk",
        changed_tensors(k=torch.tensor(3.5)),
        "k=3.5",
    ),
    "no such norm": (
        NORMALISED,
        changed_tensors(code_normalization_id=torch.tensor(9)),
        "code_normalization_id=9",
    ),
    "a scale for each dimension": (NORMALISED, scales_of_each_dimension, "a scale of its own"),
    "a bias of active codes": ("clt_training/clt_topk", with_bias, "post_encs.1"),
    "layers decoded together": (
        "clt_training/clt_topk",
        configured(coalesce_topk="concat"),
        "coalesce_topk='concat'",
    ),
    "layers missing": ("clt_training/clt_topk", configured(n_targets=4), "n_targets=4"),
    "a gate for each head": (
        "llamascopium/crosscoder_relu_datasetwise",
        configured(act_fn="jumprelu"),
        "one code for all",
    ),
    "token-wise norms": (
        "llamascopium/clt_relu_inference",
        configured(norm_activation="token-wise"),
        "norm_activation='token-wise'",
    ),
    "batch-wise top-k": (
        "llamascopium/clt_relu_inference",
        configured(act_fn="batchtopk"),
        "act_fn='batchtopk'",
    ),
    "another kind of dictionary": (
        "llamascopium/clt_relu_inference",
        configured(sae_type="lorsa"),
        "sae_type='lorsa'",
    ),
    "top-k over a batch": (
        "crosscode/acausal_relu",
        activation("BatchTopkActivation", k_per_example=4),
        "no threshold is stored",
    ),
    "more than there are": (
        "crosscode/acausal_relu",
        activation("TopkActivation", k=21),
        "k=21 with 20 latents",
    ),
    "negative thresholds": ("circuit_tracer_clt/relu", negative, "below 0"),
    "a skip that is not there": (
        "sparsify/skip_transcoder_topk",
        configured(skip_connection=False),
        "skip_connection=False",
    ),
}


@pytest.mark.parametrize(("path", "change", "reason"), REFUSED.values(), ids=REFUSED)
def test_the_reason_is_given(tmp_path, path, change, reason):
    copy = Copy(BY_PATH[path], tmp_path)
    change(copy)
    with pytest.raises(InputError, match=reason):
        copy.load()


@pytest.mark.parametrize("path", ["ckkissane/fp32", "crosscode/clt_jumprelu"])
def test_scales_that_are_stored_nowhere_are_asked_for(path):
    with pytest.raises(InputError, match="scales: the files do not say"):
        Case(path).load()
    with pytest.raises(InputError, match="3 are given"):
        Case(path, scales=(1, 1, 1)).load()


def test_scales_that_are_not_needed_are_refused():
    with pytest.raises(InputError, match="is given no scales"):
        Case("gemma_scope_2/crosscoder", scales=(1, 1, 1, 1)).load()


def test_scales_are_taken_into_the_weights():
    case = BY_PATH["ckkissane/fp32"]
    plain = case.load()
    scaled = Case(case.path, scales=(2.0, 0.5)).load()
    x = torch.randn(7, plain.cfg.d_in)
    factors = torch.tensor([2.0, 0.5]).repeat_interleave(plain.d_model)
    torch.testing.assert_close(scaled.encode(x), plain.encode(x * factors))
    torch.testing.assert_close(scaled(x), plain(x * factors) / factors)


def test_files_of_no_format(tmp_path):
    (tmp_path / "weights.bin").write_bytes(b"")
    with pytest.raises(InputError, match=r"no format that is known .*weights\.bin"):
        read_public(Files.of_folder(tmp_path))
    with pytest.raises(InputError, match="format='other'"):
        ReadingOptions(format="other")
    with pytest.raises(InputError, match="is not a folder"):
        PublicFormat()(tmp_path / "nowhere")


def test_a_folder_of_several_dictionaries(tmp_path):
    for name in ("layers.3.mlp", "layers.4.mlp"):
        (tmp_path / name).mkdir()
        for file in ("cfg.json", "sae.safetensors"):
            source = BY_PATH["sparsify/sae_topk"].folder / "layers.3.mlp" / file
            (tmp_path / name / file).write_bytes(source.read_bytes())
    with pytest.raises(InputError, match=r"give one of layers\.3\.mlp, layers\.4\.mlp"):
        PublicFormat()(tmp_path)
    config, _ = PublicFormat()(tmp_path / "layers.4.mlp")
    assert config["select_k"] == json.loads((tmp_path / name / "cfg.json").read_text())["k"]
