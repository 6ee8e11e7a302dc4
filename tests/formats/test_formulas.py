"""Options that the committed folders do not have, against their formulas in float64."""

import json
import math

import pytest
import torch
from sae_lens import SAE
from safetensors.torch import load_file, save_file

from sae_lens_poly import InputError
from sae_lens_poly.formats.base import ReadingOptions
from sae_lens_poly.formats.convert import PublicFormat
from tests.formats.damaged import Copy
from tests.formats.folders import CASES, Case

BY_PATH = {case.path: case for case in CASES}


def drawn(*shape):
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, generator=generator)


def load(copy):
    return copy.case.load(copy.folder).to(dtype=torch.float64)


def doubles(tensors):
    return {name: tensor.double() for name, tensor in tensors.items()}


def equal(found, expected):
    torch.testing.assert_close(found, expected.to(found), rtol=1e-5, atol=1e-5)


@pytest.fixture
def copy_of(tmp_path):
    return lambda path: Copy(BY_PATH[path], tmp_path)


def test_gemma_scope_2_with_affine_skips(copy_of):
    """``y^l += x^l A``, the matrix not transposed."""
    copy = copy_of("gemma_scope_2/crosscoder")
    plain, skips = load(copy), []
    for file in sorted(copy.folder.glob("params_layer_*")):
        skips.append(drawn(6, 6) + len(skips))
        save_file({**load_file(file), "affine_skip_connection": skips[-1]}, file)
    x = drawn(5, 24).double()
    expected = plain(x) + torch.cat(
        [part @ skip.double() for part, skip in zip(x.split(6, dim=1), skips, strict=True)], dim=1
    )
    equal(load(copy)(x), expected)
    assert torch.equal(load(copy).encode(x), plain.encode(x))
    # A cross-layer transcoder has the same files, and other hook points for its outputs.
    clt = PublicFormat(ReadingOptions(format="gemma_scope_2_clt"))
    clt = SAE.load_from_disk(copy.folder, converter=clt).to(dtype=torch.float64)
    stacked = torch.cat([x, torch.zeros_like(x)], dim=1)
    equal(clt(stacked)[:, 24:], expected)
    assert clt.cfg.skips == "0>4;1>5;2>6;3>7"


def test_names_of_a_compiled_module(copy_of):
    copy = copy_of("dictionary_learning_crosscoder/batchtopk_pt")
    x = drawn(9, 18).double()
    expected = load(copy).encode(x)
    copy.change(lambda tensors: {f"_orig_mod.{k}": v for k, v in tensors.items()})
    assert torch.equal(load(copy).encode(x), expected)


def test_llamascopium_saved_by_torch(copy_of):
    copy = copy_of("llamascopium/clt_relu_inference")
    x = drawn(9, 36).double()
    expected = load(copy).encode(x)
    torch.save({"sae": load_file(copy.weights), "version": "2"}, copy.folder / "sae_weights.pt")
    copy.weights.unlink()
    assert torch.equal(load(copy).encode(x), expected)
    (copy.folder / "sae_weights.pt").unlink()
    (copy.folder / "sae_weights.dcp").mkdir()
    (copy.folder / "sae_weights.dcp" / "0.distcp").write_bytes(b"")
    with pytest.raises(InputError, match="saved as safetensors"):
        load(copy)


def test_a_latent_that_writes_nothing_is_never_active(copy_of):
    copy = copy_of("dictionary_learning_crosscoder/batchtopk_pt")

    def change(tensors):
        tensors["decoder.weight"][:, 3] = 0
        return tensors

    copy.change(change)
    sae = load(copy)
    assert not sae.encode(100 * drawn(500, 18).double())[:, 3].any()
    assert sae.threshold.isfinite().all()


@pytest.mark.parametrize("kind", [1, 2, 4])
def test_dictionary_learning_with_a_normaliser(copy_of, kind):
    copy = copy_of("dictionary_learning_crosscoder/head_batchtopk_pt_sae_norm")
    mean, std, rms = drawn(3, 6), drawn(3, 6).abs() + 0.1, 3.0
    scale = rms / math.sqrt(float(std.double().square().sum()) + 1e-8)
    copy.change(
        lambda tensors: {
            **tensors,
            "activation_mean": mean,
            "activation_std": std,
            "activation_global_scale": torch.tensor(scale),
            "target_rms": torch.tensor(rms),
            "code_normalization_id": torch.tensor(kind),
        }
    )
    w = doubles(torch.load(copy.weights, weights_only=True))
    x = 2 * drawn(50, 3, 6).double()
    pre = torch.einsum("nld,ldf->nf", (x - mean) * scale, w["encoder.weight"]) + w["encoder.bias"]
    per_layer = w["decoder.weight"].norm(dim=-1)
    N = {1: per_layer.sum(0), 2: per_layer.norm(dim=0), 4: torch.ones(20)}[kind]
    f = pre.relu() * (pre.relu() * N > w["threshold"])
    assert 0 < (f != 0).sum() < (pre > 0).sum()
    x_hat = torch.einsum("nf,lfd->nld", f, w["decoder.weight"]) + w["decoder.bias"]
    sae = load(copy)
    equal(sae.encode(x.flatten(1)), f)
    equal(sae(x.flatten(1)), (x_hat / (scale + 1e-8) + mean).flatten(1))


@pytest.mark.parametrize("kind", ["topk", "groupmax"])
def test_crosscode_with_a_skip_and_folded_scales(copy_of, kind):
    """Both selections keep what is below zero; the skip is scaled here, as the library forgets."""
    copy = copy_of("crosscode/clt_jumprelu")
    s_in, s_out, skip = torch.tensor(0.7), torch.tensor([0.5, 2.0, 3.0]), drawn(6, 3, 6)
    activation = {
        "topk": {"classname": "TopkActivation", "cfg": {"k": 15}},
        "groupmax": {"classname": "GroupMaxActivation", "cfg": {"k_groups": 10}},
    }[kind]
    copy.configure(activation_fn=activation, linear_skip=True)

    def change(tensors):
        del tensors["_activation_fn.log_threshold_L"]
        folded = {"folded_scaling_factors_in_Xi": s_in, "folded_scaling_factors_out_Xo": s_out}
        return {**tensors, **folded, "is_folded": torch.tensor(True), "W_skip_DPD": skip}

    copy.change(change)
    w = doubles(torch.load(copy.weights, weights_only=True))
    x = drawn(9, 6).double()
    pre = x @ w["_W_enc_XiDiL"] + w["b_enc_L"]
    f = torch.zeros_like(pre)
    if kind == "topk":
        at = pre.topk(15).indices
    else:
        at = pre.view(9, 10, 2).argmax(-1) + 2 * torch.arange(10)
    f.scatter_(1, at, pre.gather(1, at))
    assert (f < 0).any()
    x_hat = torch.einsum("nf,fpd->npd", f, w["_W_dec_LXoDo"]) + w["_b_dec_XoDo"]
    x_hat += torch.einsum("nd,dpe->npe", x, skip.double()) * s_in / s_out[:, None]
    case = Case(copy.case.path)
    sae = case.load(copy.folder).to(dtype=torch.float64)
    stacked = torch.cat([x, torch.zeros(9, 18)], dim=1)
    equal(sae.encode(stacked), f)
    equal(sae(stacked)[:, 6:], x_hat.flatten(1))


def test_clt_training_with_skips_scales_and_norms(copy_of):
    copy = copy_of("clt_training/clt_topk")
    for i in range(3):
        folder = copy.folder / f"layers.{i}.mlp"
        config = json.loads((folder / "cfg.json").read_text())
        config |= {"normalize_io": True, "skip_connection": True, "post_encoder_scale": True}
        (folder / "cfg.json").write_text(json.dumps(config))
        more = {"in_norm": torch.tensor([2.0 + i]), "out_norm": torch.tensor([5.0 - i])}
        for t in range(3 - i):
            more[f"W_skips.{t}"] = drawn(6, 6) * (i + t + 1)
            more[f"post_enc_scales.{t}"] = drawn(24)
        more["W_skip"] = more["W_skips.0"].clone()
        save_file({**load_file(folder / "sae.safetensors"), **more}, folder / "sae.safetensors")
    files = [doubles(load_file(copy.folder / f"layers.{i}.mlp/sae.safetensors")) for i in range(3)]
    x, codes = drawn(7, 3, 6).double(), []
    x_hat = torch.zeros(7, 3, 6, dtype=torch.float64)
    for i, w in enumerate(files):
        scaled = x[:, i] * math.sqrt(6) / w["in_norm"]
        pre = (scaled @ w["encoder.weight"].T + w["encoder.bias"]).relu()
        f = torch.zeros_like(pre)
        at = pre.topk(4).indices
        codes.append(f.scatter(1, at, pre.gather(1, at)))
        for t in range(3 - i):
            scaled_code = codes[i] * w[f"post_enc_scales.{t}"]
            x_hat[:, i + t] += scaled_code @ w[f"W_decs.{t}"] + w[f"b_decs.{t}"]
            x_hat[:, i + t] += scaled @ w[f"W_skips.{t}"].T
    x_hat *= torch.cat([w["out_norm"] for w in files])[:, None] / math.sqrt(6)
    sae = load(copy)
    stacked = torch.cat([x, torch.zeros_like(x)], dim=1).flatten(1)
    equal(sae.encode(stacked), torch.cat(codes, dim=1))
    equal(sae(stacked)[:, 18:], x_hat.flatten(1))


def test_llamascopium_with_norms_in_the_gate_and_scales(copy_of):
    copy = copy_of("llamascopium/clt_jumprelu_no_decoder_norm")
    copy.configure(sparsity_include_decoder_norm=True)
    w = doubles(load_file(copy.weights))
    names = json.loads(copy.config.read_text())
    norm = "dataset_average_activation_norm."
    s_in, s_out = (
        math.sqrt(6) / torch.stack([w[norm + name] for name in names[f"hook_points_{side}"]])
        for side in ("in", "out")
    )
    assert (s_in - s_out).abs().max() > 0.01
    x = drawn(30, 3, 6).double()
    x_hat, codes = torch.zeros(30, 3, 6, dtype=torch.float64), []
    for i in range(3):
        pre = (x[:, i] * s_in[i]) @ w["W_E"][i] + w["b_E"][i]
        N = torch.stack([w[f"W_D.{to}"][i].norm(dim=-1) for to in range(i, 3)]).norm(dim=0)
        theta = w["activation_function.log_jumprelu_threshold"][i].exp()
        codes.append(pre * (pre * N > theta))
        for to in range(i, 3):
            x_hat[:, to] += codes[i] @ w[f"W_D.{to}"][i]
    x_hat += torch.stack([w[f"b_D.{to}"] for to in range(3)])
    sae = load(copy)
    stacked = torch.cat([x, torch.zeros_like(x)], dim=1).flatten(1)
    equal(sae.encode(stacked), torch.cat(codes, dim=1))
    equal(sae(stacked)[:, 18:], (x_hat / s_out[:, None]).flatten(1))


def test_a_transcoder_set_with_thresholds_and_skips(copy_of):
    copy = copy_of("circuit_tracer_transcoder_set/relu")
    files = []
    for i, file in enumerate(sorted(copy.folder.glob("layer_*"))):
        more = {"activation_function.threshold": drawn(1, 16).abs(), "W_skip": drawn(6, 6) + i}
        save_file({**load_file(file), **more}, file)
        files.append(doubles({**load_file(file)}))
    x, codes, x_hat = drawn(8, 2, 6).double(), [], []
    for i, w in enumerate(files):
        pre = x[:, i] @ w["W_enc"].T + w["b_enc"]
        codes.append(pre * (pre > w["activation_function.threshold"]))
        x_hat.append(codes[i] @ w["W_dec"] + w["b_dec"] + x[:, i] @ w["W_skip"].T)
    sae = load(copy)
    stacked = torch.cat([x, torch.zeros_like(x)], dim=1).flatten(1)
    equal(sae.encode(stacked), torch.cat(codes, dim=1))
    equal(sae(stacked)[:, 12:], torch.cat(x_hat, dim=1))


def test_groupmax_of_sparsify(copy_of):
    copy = copy_of("sparsify/sae_topk")
    copy.configure(activation="groupmax")
    w = doubles(load_file(copy.weights))
    x = drawn(8, 6).double()
    pre = ((x - w["b_dec"]) @ w["encoder.weight"].T + w["encoder.bias"]).relu()
    at = pre.view(8, 4, 6).argmax(-1) + 6 * torch.arange(4)
    expected = torch.zeros_like(pre).scatter(1, at, pre.gather(1, at))
    equal(load(copy).encode(x), expected)
