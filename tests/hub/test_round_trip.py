"""Upload, download into an empty cache, load: the same outputs, over HTTP."""

import json

import pytest
import torch
from huggingface_hub import ModelCard
from sae_lens import SAE
from sae_lens.training.upload_saes_to_huggingface import upload_saes_to_huggingface
from safetensors.torch import save_file

from sae_lens_poly import InputError
from sae_lens_poly.cli import main
from sae_lens_poly.hub import HubLoader, fetch_dictionary, upload_dictionary
from tests.hub.dictionaries import NAMES, assert_same, saved, training_dictionary
from tests.hub.server import File


@pytest.mark.parametrize("architecture", NAMES)
def test_every_architecture_comes_back(hub, tmp_path, architecture):
    expected = saved(tmp_path / "saved", architecture)
    save_file({"sparsity": torch.arange(4.0)}, tmp_path / "saved" / "sparsity.safetensors")
    url = upload_dictionary(tmp_path / "saved", "user/repo", "layers/all", evaluated=False)
    assert url.startswith(hub.url)
    for converter in (None, HubLoader()):
        loaded, cfg, sparsity = SAE.from_pretrained_with_cfg_and_sparsity(
            "user/repo", "layers/all", converter=converter
        )
        assert_same(loaded, expected)
        assert cfg["architecture"] == expected.cfg.architecture()
        assert sparsity.tolist() == [0, 1, 2, 3]
        assert loaded.cfg.metadata.hook_name == "blocks.{0..2}.hook_resid_post"
        assert_same(SAE.from_pretrained("user/repo", "layers/all", converter=converter), expected)


def test_sae_lens_uploads_them_too(hub, tmp_path):
    expected = saved(tmp_path / "saved")
    upload_saes_to_huggingface({"a": tmp_path / "saved", "b": expected}, "user/repo")
    for path in ("a", "b"):
        assert_same(SAE.from_pretrained("user/repo", path), expected)
        assert_same(SAE.from_pretrained("user/repo", path, converter=HubLoader()), expected)


def test_revisions_and_the_cache(hub, tmp_path):
    first = saved(tmp_path / "first", "poly_topk")
    second = saved(tmp_path / "second", "poly_standard")
    upload_dictionary(tmp_path / "first", "user/repo", "x", evaluated=False)
    commit = hub.repositories["user/repo"].branches["main"]
    upload_dictionary(tmp_path / "second", "user/repo", "x", revision="new", evaluated=False)
    for revision, expected in ((None, first), ("new", second), (commit, first)):
        loaded = SAE.from_pretrained("user/repo", "x", converter=HubLoader(revision))
        assert_same(loaded, expected)

    def downloads():
        return [request for request in hub.requests if request.startswith("GET /")]

    before = len(downloads())
    fetch_dictionary("user/repo", "x")
    assert len(downloads()) == before
    fetch_dictionary("user/repo", "x", force_download=True)
    assert len(downloads()) == before + 2
    # Without a connection the cache is enough.
    hub.failing = "/"
    assert_same(SAE.from_pretrained("user/repo", "x", converter=HubLoader()), first)


def test_an_upload_is_one_commit_that_keeps_the_rest(hub, tmp_path):
    saved(tmp_path / "a")
    saved(tmp_path / "b", "poly_topk")
    for name in ("notes.txt", "evaluation.png"):  # not for the hub; of weights that are not known
        (tmp_path / "a" / name).write_text("x")
    upload_dictionary(tmp_path / "a", "user/repo", "a", license="mit", evaluated=False)
    repository = hub.repositories["user/repo"]
    assert len(repository.commits) == 2  # the first is made with the repository
    upload_dictionary(tmp_path / "b", "user/repo", "some/b", evaluated=False)
    assert sorted(hub.files("user/repo")) == [
        "README.md",
        "a/cfg.json",
        "a/sae_weights.safetensors",
        "some/b/cfg.json",
        "some/b/sae_weights.safetensors",
    ]
    card = ModelCard(hub.files("user/repo")["README.md"].content.decode())
    assert card.data.library_name == "saelens"
    assert card.data["license"] == "mit"
    assert card.text.count("import sae_lens_poly  #") == 2
    assert 'SAE.from_pretrained("user/repo", "some/b")' in card.text
    assert '"training_architecture": "poly_topk"' in card.text
    # A section is replaced, what somebody wrote around it is kept.
    edited = card.content.replace("## a\n", "## a\n\nold words\n") + "\nThanks to everybody.\n"
    repository.commit("main", {"README.md": File(edited.encode(), False)})
    upload_dictionary(tmp_path / "a", "user/repo", "a", evaluated=False)
    text = hub.files("user/repo")["README.md"].content.decode()
    assert "old words" not in text
    assert "Thanks to everybody." in text
    assert text.count("## a\n") == text.count("## some/b\n") == 1


def test_nothing_of_an_earlier_upload_stays(hub, tmp_path):
    saved(tmp_path / "a")
    save_file({"sparsity": torch.zeros(3)}, tmp_path / "a" / "sparsity.safetensors")
    upload_dictionary(tmp_path / "a", "user/repo", "a", evaluated=False)
    assert "a/sparsity.safetensors" in hub.files("user/repo")
    (tmp_path / "a" / "sparsity.safetensors").unlink()
    upload_dictionary(tmp_path / "a", "user/repo", "a", evaluated=False)
    assert "a/sparsity.safetensors" not in hub.files("user/repo")
    *_, sparsity = SAE.from_pretrained_with_cfg_and_sparsity("user/repo", "a")
    assert sparsity is None


def test_a_card_that_was_there(hub, tmp_path):
    """Nothing of it changes; what cannot be told apart is refused."""
    saved(tmp_path / "a")
    upload_dictionary(tmp_path / "a", "user/repo", "a", evaluated=False)
    repository = hub.repositories["user/repo"]
    own = "---\nlanguage: [en]  # a note\n---\n# Ours, with ümlaut\n"
    for card in (own, "# No header\n"):
        repository.commit("main", {"README.md": File(card.encode(), False)})
        upload_dictionary(tmp_path / "a", "user/repo", "a", evaluated=False)
        text = hub.files("user/repo")["README.md"].content.decode()
        assert text.startswith(card + "\n<!-- dictionary a -->\n")
    broken = text.replace("<!-- end of dictionary a -->", "")
    repository.commit("main", {"README.md": File(broken.encode(), False)})
    with pytest.raises(InputError, match="1 and 0 times"):
        upload_dictionary(tmp_path / "a", "user/repo", "a", evaluated=False)


def test_a_private_repository(hub, tmp_path, monkeypatch):
    saved(tmp_path / "a")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    upload_dictionary(tmp_path / "a", "user/repo", "a", private=True, evaluated=False)
    fetch_dictionary("user/repo", "a")
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(InputError, match="private"):
        fetch_dictionary("user/repo", "a", force_download=True)


def test_what_cannot_be_uploaded(hub, tmp_path):
    training_dictionary("poly_topk").save_model(tmp_path / "training")
    with pytest.raises(InputError, match=r"in training.*export"):
        upload_dictionary(tmp_path / "training", "user/repo", "a")
    saved(tmp_path / "a")
    with pytest.raises(InputError, match=r"no evaluation.json.*evaluate"):
        upload_dictionary(tmp_path / "a", "user/repo", "a")
    (tmp_path / "a" / "evaluation.json").write_text('{"dictionary_hash": "of others"}')
    with pytest.raises(InputError, match=r"of other weights.*evaluate"):
        upload_dictionary(tmp_path / "a", "user/repo", "a")
    (tmp_path / "a" / "evaluation.json").write_text("{")
    with pytest.raises(InputError, match=r"evaluation.json' is damaged"):
        upload_dictionary(tmp_path / "a", "user/repo", "a")
    with pytest.raises(InputError, match=r"no cfg.json"):
        upload_dictionary(tmp_path / "none", "user/repo", "a")
    with pytest.raises(InputError, match="repo_id='user repo'"):
        upload_dictionary(tmp_path / "a", "user repo", "a", evaluated=False)
    for path in ("", "/", "..", "a/../b", "a b", "a)", "/a"):
        with pytest.raises(InputError, match=r"path=.* must name a folder"):
            upload_dictionary(tmp_path / "a", "user/repo", path, evaluated=False)
    assert hub.repositories == {}


@pytest.mark.slow
def test_commands(hub, tmp_path, monkeypatch, capsys):
    """Train, upload with table and picture, evaluate from the hub: the same figures."""
    monkeypatch.chdir(tmp_path)
    hooks = ["--hook_name", "blocks.{1..2}.hook_resid_post", "--output_path", "output"]
    small = {
        "training_tokens": 2048,
        "train_batch_size_tokens": 512,
        "context_size": 64,
        "d_sae": 64,
        "k": 4,
        "n_batches_in_buffer": 16,
        "store_batch_size_prompts": 4,
    }
    flags = [word for name, value in small.items() for word in (f"--{name}", str(value))]
    assert main(["train", *flags, "--architecture", "crosscoder", *hooks]) == 0
    assert main(["upload", "output", "user/repo:first/try", "--license", "mit"]) == 0
    assert 'SAE.from_pretrained("user/repo", "first/try")' in capsys.readouterr().out

    card = hub.files("user/repo")["README.md"].content.decode()
    figures = json.loads((tmp_path / "output" / "evaluation.json").read_text())
    for words in (
        "| blocks.2.hook_resid_post | ",
        f"| {figures['pooled']['explained_variance']:.4f} | ",
        "![figures of this dictionary](first/try/evaluation.png)",
        "python -m sae_lens_poly evaluate user/repo:first/try",
        '"train_batch_size_tokens": 512',
    ):
        assert words in card
    assert str(tmp_path) not in card
    assert "first/try/evaluation.png" in hub.files("user/repo")

    settings = figures["settings"]
    same = ["--n_batches", str(settings["n_batches"]), "--n_headroom_tokens", "0", "--probing"]
    assert main(["evaluate", "user/repo:first/try", *same]) == 0
    again = json.loads((tmp_path / "evaluations/user/repo/first/try/evaluation.json").read_text())
    assert again == figures
    assert main(["evaluate", "user/repo:first", *same]) == 2
    assert "there is no user/repo:first/cfg.json" in capsys.readouterr().err
    assert main(["evaluate", "output", "--revision", "v1"]) == 2
    assert "revision='v1'" in capsys.readouterr().err
    assert main(["upload", "output", "nowhere"]) == 2
    assert "user/repo:path" in capsys.readouterr().err
