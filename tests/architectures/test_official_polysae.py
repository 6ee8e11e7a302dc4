"""Files that PolySAE's code wrote load, with its outputs; its wrong exports are refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from sae_lens import SAE, TrainingSAE
from safetensors.torch import load_file, save_file

from sae_lens_poly import InputError

FIXTURES = Path(__file__).parents[3] / "shared" / "fixtures" / "polysae_official"
D_IN, D_SAE, K, RANKS = 12, 30, 4, (12, 5, 3)


@pytest.mark.skipif(not FIXTURES.is_dir(), reason="official checkpoints are not at hand")
@pytest.mark.parametrize("folder", sorted(FIXTURES.glob("*")), ids=lambda path: path.name)
@torch.no_grad()
def test_parity_with_official_files(folder):
    sae = SAE.load_from_disk(folder)
    reference = load_file(folder / "reference.safetensors")
    codes = sae.encode(reference["x"])
    assert torch.equal(codes > 0, reference["feature_acts"] > 0)
    torch.testing.assert_close(codes, reference["feature_acts"], rtol=1e-5, atol=1e-6)
    wanted = reference["reconstruction"]
    assert (sae.decode(codes) - wanted).norm() / wanted.norm() < 1e-5
    assert (sae(reference["x"]) - wanted).norm() / wanted.norm() < 1e-5


def official_file(
    folder, shared=True, order=3, architecture="poly_topk", rescale=False, training=True, seed=0
):
    """A file in the format of PolySAE's code; returns its weights in float64."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def orthonormal(rank):
        return torch.linalg.qr(random(D_SAE, rank))[0]

    r1, r2, r3 = RANKS
    w = {
        "W_enc": random(D_IN, D_SAE),
        "b_enc": 0.1 * random(D_SAE),
        "b_dec": 0.1 * random(D_IN),
        "W_dec": 0.1 * torch.nn.functional.normalize(random(D_SAE, D_IN), dim=-1),
        "C1": random(D_IN, r1),
        "C2": random(D_IN, r2) * (order >= 2),
        "C3": random(D_IN, r3) * (order >= 3),
        "lambda2": torch.tensor(-0.4 * (order >= 2), dtype=torch.float64),
        "lambda3": torch.tensor(0.3 * (order >= 3), dtype=torch.float64),
    }
    for name, rank in {"U1": r1, "U2": r2, "U3": r3}.items():
        w[name] = torch.zeros(D_SAE, rank, dtype=torch.float64) if shared else orthonormal(rank)
    if shared:
        w["U_shared"] = orthonormal(r1)
    if not training:
        w["W_dec"] = torch.nn.functional.normalize(w["W_dec"], dim=-1)
    if architecture == "poly_jumprelu":
        w["threshold"] = 0.5 + random(D_SAE).abs()
    elif architecture != "poly_topk":
        w["topk_threshold"] = torch.tensor(0.8, dtype=torch.float64)
    cfg = {
        "architecture": architecture,
        "d_in": D_IN,
        "d_sae": D_SAE,
        "k": K,
        "poly_ranks": RANKS,
        "poly_order": order,
        "shared_u": shared,
        "rescale_acts_by_decoder_norm": rescale,
        "dtype": "float64",
        "metadata": {},
    }
    folder.mkdir(exist_ok=True)
    (folder / "cfg.json").write_text(json.dumps(cfg))
    w = {name: weight.contiguous() for name, weight in w.items()}
    save_file(w, folder / "sae_weights.safetensors")
    return w


def official_reconstruction(w, z, shared):
    """The paper's decoder, term by term."""
    _, r2, r3 = RANKS
    a = [z @ w[name] for name in (["U_shared"] * 3 if shared else ["U1", "U2", "U3"])]
    y1 = a[0] @ w["C1"].T
    y2 = (a[0][:, :r2] * a[1][:, :r2]) @ w["C2"].T
    y3 = (a[0][:, :r3] * a[1][:, :r3] * a[2][:, :r3]) @ w["C3"].T
    return w["b_dec"] + y1 + w["lambda2"] * y2 + w["lambda3"] * y3


def official_norms(w, shared):
    _, r2, r3 = RANKS
    U = [w["U_shared"]] * 3 if shared else [w["U1"], w["U2"], w["U3"]]
    D = U[0] @ w["C1"].T + w["lambda2"] * (U[0][:, :r2] * U[1][:, :r2]) @ w["C2"].T
    D = D + w["lambda3"] * (U[0][:, :r3] * U[1][:, :r3] * U[2][:, :r3]) @ w["C3"].T
    return D.norm(dim=-1)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("rescale", [True, False])
@pytest.mark.parametrize(
    "architecture", ["poly_topk", "poly_batchtopk", "poly_matryoshka", "poly_jumprelu"]
)
@torch.no_grad()
def test_every_kind_of_file(shared, order, rescale, architecture, tmp_path):
    w = official_file(tmp_path, shared, order, architecture, rescale)
    if architecture == "poly_jumprelu":
        rescale = False  # a field that its files do not have
    sae = SAE.load_from_disk(tmp_path)
    x = torch.randn(20, D_IN, dtype=torch.float64)

    D = official_norms(w, shared) if rescale else torch.ones(D_SAE, dtype=torch.float64)
    pre = ((x - w["b_dec"]) @ w["W_enc"] + w["b_enc"]) * D
    if architecture == "poly_topk":
        top = pre.topk(K)
        codes = torch.zeros_like(pre).scatter(-1, top.indices, top.values.relu())
    else:
        threshold = w.get("threshold", w.get("topk_threshold"))
        codes = pre * (pre > threshold)
    torch.testing.assert_close(sae.encode(x), codes)
    wanted = official_reconstruction(w, codes / D, shared)
    torch.testing.assert_close(sae.decode(codes), wanted)
    assert sae.cfg.degree == order

    sae.save_model(tmp_path / "again")
    torch.testing.assert_close(SAE.load_from_disk(tmp_path / "again")(x), sae(x), rtol=0, atol=0)
    if architecture != "poly_topk":
        before = sae(x)
        sae.fold_W_dec_norm()
        torch.testing.assert_close(sae(x), before)


def test_refused_kinds(tmp_path):
    official_file(tmp_path, rescale=True, training=False)
    with pytest.raises(InputError, match="rescale_acts_by_decoder_norm=True"):
        SAE.load_from_disk(tmp_path)

    w = official_file(tmp_path, architecture="poly_jumprelu")
    save_file({**w, "U_shared": w["U_shared"] * 3}, tmp_path / "sae_weights.safetensors")
    with pytest.raises(InputError, match="BatchTopK"):
        SAE.load_from_disk(tmp_path)

    w = official_file(tmp_path, architecture="poly_jumprelu", training=False)
    w["threshold"] = torch.full_like(w["threshold"], 0.7)
    save_file(w, tmp_path / "sae_weights.safetensors")
    with pytest.raises(InputError, match="Matryoshka"):
        SAE.load_from_disk(tmp_path)


def test_a_file_of_the_fork_is_not_trained_on(tmp_path):
    official_file(tmp_path)
    with pytest.raises(InputError, match=r"SAE\.load_from_disk"):
        TrainingSAE.load_from_disk(tmp_path)
    shutil.rmtree(tmp_path)
