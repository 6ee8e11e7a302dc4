"""The data files, against what the dictionary itself says."""

import json
from importlib import resources

import numpy as np
import pytest
import torch
from sae_lens.load_model import HookedProxyLM

from sae_lens_poly import InputError, StackedHooks
from sae_lens_poly.analysis.interactions import pair_terms
from sae_lens_poly.cli import main
from sae_lens_poly.evaluation.saved import model_of
from sae_lens_poly.explorer.collect import collect
from sae_lens_poly.explorer.data_files import TokenTexts, plain, read_data
from sae_lens_poly.explorer.latent_views import LatentViews
from sae_lens_poly.explorer.settings import CollectionSettings
from sae_lens_poly.explorer.site import write_site
from sae_lens_poly.explorer.unembedding import unembeddings
from sae_lens_poly.explorer.write_data import DataWriter
from tests.explorer.dictionaries import crosscoder, save
from tests.models.tiny_llama import tiny_llama


@pytest.fixture(scope="module")
def data(explored):
    return explored[0] / "explorer" / "data"


@pytest.fixture(scope="module")
def writer(explored):
    return explored[1]


def latent(data, number):
    file = read_data(data / "latents" / f"{number // 16:05d}.json.gz")
    return file["latents"][number % 16], file["strings"]


def test_the_assets_and_their_licences_are_in_the_package():
    static = resources.files("sae_lens_poly.explorer") / "static"
    for name in ("index.html", "explorer.js", "explorer.css", "LICENSES.txt"):
        assert (static / name).is_file(), f"{name} is missing: make explorer-pages"
    licences = (static / "LICENSES.txt").read_text()
    assert "@observablehq/plot" in licences
    assert "preact" in licences
    page = (static / "index.html").read_text()
    assert "default-src 'self'" in page
    assert "http" not in page.replace("http-equiv", "").replace("http://localhost", "").replace(
        "http.server", ""
    )


def test_examples_are_the_text(data, writer):
    found, strings = latent(data, 9)
    assert found["top"]
    for example in found["top"]:
        row = writer.collected.tokens[example["c"]].tolist()
        shown = "".join(strings[t] for t in example["t"])
        assert shown in "".join(writer.texts[t] for t in row)
        assert max(example["a"]) == example["a"][example["p"]] == 100
        assert len(example["a"]) == len(example["t"])


def test_quantiles_go_down(data):
    found, _ = latent(data, 9)
    drawn = [example["v"] for group in found["quantiles"] for example in group]
    assert drawn == sorted(drawn, reverse=True)


def test_logits_are_those_of_the_model(data, writer):
    """The direct path of a small step, against the model's last norm and unembedding themselves."""
    model, unembedding = writer.model.model, writer.views.unembeddings[-1]
    direction = torch.randn(128, generator=torch.Generator().manual_seed(0))
    x = torch.randn(1, 1, 128, generator=torch.Generator().manual_seed(1))
    scale = x.std(unbiased=False)
    step = 1e-3 * direction
    changed = model.unembed(model.ln_final(x + step)) - model.unembed(model.ln_final(x))
    linear = unembedding.logits(step) * unembedding.scale / scale
    changed = (changed - changed.mean()).flatten()
    assert torch.corrcoef(torch.stack([changed, linear]))[0, 1] > 0.99


def test_the_last_norm_of_a_hugging_face_model_is_found(embedded_model):
    llama = tiny_llama()
    llama.model.norm.weight.data.normal_(1, 0.2)
    names = ["model.layers.0"]
    model = StackedHooks(HookedProxyLM(llama, embedded_model.tokenizer, hook_names=names), names)
    (found,) = unembeddings(model, torch.zeros(1, 4, dtype=torch.long))
    assert not found.centres
    torch.testing.assert_close(found.gain, llama.model.norm.weight.detach(), rtol=1e-3, atol=1e-4)


def test_pair_terms_are_those_of_the_decoder(data, writer):
    file = read_data(data / "pairs" / "00000.json.gz")
    pair = max(file["pairs"], key=lambda p: p["share"])
    i, j = pair["i"], pair["j"]
    typical = writer.collected.counts.typical
    B = pair_terms(writer.sae, torch.tensor([[i, j]]))[0] * typical[i] * typical[j]
    scales = torch.tensor([0.2, 0.15, 0.1])
    norms = B.view(3, -1).norm(dim=-1) * scales
    np.testing.assert_allclose(pair["norms"]["pair"], norms, rtol=1e-2)
    with torch.no_grad():
        z = torch.zeros(1, writer.sae.cfg.d_sae)
        z[0, i] = typical[i]
        alone = (writer.sae.decode(z) - writer.sae.b_dec).view(3, -1).norm(dim=-1) * scales
    np.testing.assert_allclose(pair["norms"]["i"], alone, rtol=1e-2)


def test_partners_are_the_strongest_that_fire_together(writer):
    i = 12
    together = writer.pairs.together(slice(i, i + 1))
    found = writer.pairs.partners(slice(i, i + 1), together.phi)[0]
    able = np.flatnonzero(np.isfinite(together.phi[0]))
    pairs = torch.tensor([(i, int(j)) for j in able])
    typical = writer.collected.counts.typical
    strength = pair_terms(writer.sae, pairs).norm(dim=-1) * typical[pairs[:, 1]]
    plain_ones = [
        int(j) for j in able[strength.argsort(descending=True)] if not writer.pairs.dense[j]
    ]
    assert [j for j in found if not writer.pairs.dense[j]] == plain_ones[:6]
    assert i not in found


def test_shared_counts_are_exact_for_a_whole_text(data, writer):
    file = read_data(data / "pairs" / "00000.json.gz")
    for pair in file["pairs"][:5]:
        rows, _, _ = writer.collected.sample.both(pair["i"], pair["j"])
        assert pair["n_both"] == len(rows)
        assert all(max(e["a"]) and max(e["b"]) for e in pair["examples"])


@pytest.mark.parametrize("decoder", ["linear", "powers", "interactions"])
def test_every_decoder_is_written(decoder, tmp_path):
    sae = crosscoder(decoder, d_sae=20)
    model = model_of(sae, "", "cpu")
    settings = CollectionSettings(n_tokens=1000, n_top=2, n_drawn=2, n_coherence_tokens=64)
    writer = DataWriter(sae, model, collect(sae, model, tmp_path / "c", settings))
    writer.write(tmp_path / "data", tmp_path, "")
    overview = read_data(tmp_path / "data" / "overview.json.gz")
    assert overview["interact"] == (decoder == "interactions")
    assert overview["curved"] == (decoder != "linear")
    found, _ = latent(tmp_path / "data", 2)
    assert ("curve" in found) == overview["curved"]
    assert (tmp_path / "data" / "latents" / "00001.json.gz").is_file()


@torch.no_grad()
def test_what_a_latent_adds_alone_is_its_reconstruction():
    for decoder in ("linear", "powers", "interactions"):
        sae = crosscoder(decoder)
        views = LatentViews(sae, 3, [None] * 3)
        z = torch.zeros(1, sae.cfg.d_sae)
        z[0, 7] = 3.0
        expected = (sae.decode(z) - sae.b_dec)[0]
        torch.testing.assert_close(views.alone(slice(7, 8), torch.tensor([[3.0]]))[0, 0], expected)


def test_files_of_the_same_collection_are_the_same_bytes(explored, writer, tmp_path):
    folder, _ = explored
    writer.write(tmp_path, folder, "hash")
    for path in (folder / "explorer" / "data").glob("latents/*"):
        assert (tmp_path / "latents" / path.name).read_bytes() == path.read_bytes()
    # What is there is kept; what is missing is written again.
    kept, gone = tmp_path / "latents" / "00001.json.gz", tmp_path / "pairs" / "00002.json.gz"
    before = kept.stat().st_mtime_ns
    gone.unlink()
    writer.write(tmp_path, folder, "hash")
    assert kept.stat().st_mtime_ns == before
    assert gone.is_file()


def test_numbers_are_written_as_json_has_them():
    assert plain(torch.tensor([1.23456, float("nan"), float("inf")]), 3) == [1.23, None, None]
    assert plain({1: 2}) == {1: 2}


class SentencePiece:
    def convert_ids_to_tokens(self, ids):
        return [["▁the", "s"][i] for i in ids]

    def decode(self, ids):
        return ["the", "s"][ids[0]]


def test_leading_spaces_of_sentence_piece_are_kept():
    texts = TokenTexts(SentencePiece())
    assert [texts[0], texts[1]] == [" the", "s"]


def test_the_command_writes_a_site(tmp_path, capsys):
    folder = save(crosscoder(d_sae=20), tmp_path / "dictionary")
    flags = [
        "--n_tokens",
        "600",
        "--n_top",
        "2",
        "--n_drawn",
        "2",
        "--static",
        str(tmp_path / "site"),
    ]
    assert main(["explore", str(folder), *flags]) == 0
    assert json.loads((tmp_path / "site" / "data" / "mode.json").read_text())["served"] is False
    # Again, without settings: as it was collected.
    assert main(["explore", str(folder), "--static", str(tmp_path / "site")]) == 0
    assert read_data(tmp_path / "site" / "data" / "overview.json.gz")["settings"]["n_tokens"] == 600
    capsys.readouterr()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["missing"], "has no cfg.json"),
        (["missing", "--n_tokens", "0"], "n_tokens=0"),
        (["missing", "--port", "70000"], "port=70000"),
        (["missing", "--revision", "x"], "revision='x'"),
    ],
)
def test_wrong_input_gives_one_sentence(flags, message, capsys):
    assert main(["explore", *flags, "--static", "site"]) == 2
    assert message in capsys.readouterr().err


def test_a_folder_that_holds_something_else_is_left_alone(data, tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(InputError, match="holds something else"):
        write_site(data, tmp_path / "none", tmp_path)
    assert (tmp_path / "thesis.tex").is_file()


def test_stopped_by_hand_it_says_how_to_go_on(tmp_path, monkeypatch, capsys):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("sae_lens_poly.explorer.command.prepare", stop)
    assert main(["explore", str(tmp_path), "--static", str(tmp_path / "site")]) == 130
    assert "give the same command again" in capsys.readouterr().err
