"""Dictionaries of other packages on the hub."""

import pytest
import torch
from sae_lens import SAE

from sae_lens_poly.cli import main
from sae_lens_poly.dictionary_folder import load_dictionary
from sae_lens_poly.hub import HubError, PublicHubFormat, public_files
from tests.formats.folders import CASES
from tests.hub.server import File, Repository

BY_PATH = {case.path: case for case in CASES}
PATHS = ["circuit_tracer_clt/relu", "clt_training/clt_topk", "gemma_scope_2/crosscoder"]


@pytest.fixture
def repository(hub):
    """All three in one repository."""
    files = {"README.md": File(b"x", False)}
    for path in PATHS:
        folder = BY_PATH[path].folder
        for file in folder.rglob("*"):
            if file.is_file() and file.name != "reference.safetensors":
                name = f"{path}/{file.relative_to(folder).as_posix()}"
                files[name] = File(file.read_bytes(), file.suffix == ".safetensors")
    hub.repositories["user/repo"] = repository = Repository()
    repository.commit("main", files)
    return repository


@pytest.mark.parametrize("path", PATHS)
def test_they_load_by_name(repository, path, tmp_path):
    sae = SAE.from_pretrained("user/repo", path, converter=PublicHubFormat())
    x, codes, _ = BY_PATH[path].reference(sae)
    torch.testing.assert_close(sae.encode(x), codes, rtol=1e-5, atol=1e-5)
    assert main(["convert", f"user/repo:{path}", str(tmp_path / "ours")]) == 0
    torch.testing.assert_close(load_dictionary(tmp_path / "ours").encode(x), codes)


def test_all_files_are_of_one_commit(hub, repository):
    path = PATHS[0]
    files = public_files("user/repo", path)
    first = files.path("config.yaml").read_bytes()
    repository.commit("main", {f"{path}/config.yaml": File(b"other", False)})
    assert files.path("config.yaml").read_bytes() == first
    assert public_files("user/repo", path).path("config.yaml").read_bytes() == b"other"


@pytest.mark.parametrize(
    ("repo_id", "path", "revision", "message"),
    [
        ("user/none", "x", None, "repo_id='user/none'"),
        ("user/repo", "clt", None, "has 0 files: .* circuit_tracer_clt/relu"),
        ("user/repo", "x", "no", "revision='no'"),
    ],
)
def test_what_is_not_there(repository, repo_id, path, revision, message):
    with pytest.raises(HubError, match=message):
        public_files(repo_id, path, revision)


def test_evaluate_asks_for_what_the_files_do_not_say(repository, capsys):
    assert main(["evaluate", "user/repo:gemma_scope_2/crosscoder"]) == 2
    assert "give --model_name" in capsys.readouterr().err
    assert main(["evaluate", "user/repo:nothing"]) == 2
    assert "there is no user/repo:nothing/cfg.json" in capsys.readouterr().err
