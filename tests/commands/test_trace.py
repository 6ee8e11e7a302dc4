"""The trace command on a transcoder of the embedded model, and what it refuses."""

import json

import pytest

from sae_lens_poly.cli import main
from sae_lens_poly.evaluation.evaluate import EvaluationData, evaluate_dictionary
from sae_lens_poly.evaluation.report import print_evaluation
from sae_lens_poly.evaluation.settings import EvaluationSettings
from sae_lens_poly.models.stacked_hooks import StackedHooks
from tests.circuits.crosscoders import cross_layer, names_of

PROMPT = "def read(path):\n    return"


@pytest.fixture(scope="module")
def sae():
    sizes = {"n_layers": 6, "d_model": 128, "d_sae": 240, "dtype": "float32"}
    sae = cross_layer("degree 2", code_limit=0.1, **sizes)
    sae.threshold.fill_(90.0)
    metadata = {"model_name": "stdlib-6l", "hook_name": ",".join(names_of(6)), "prepend_bos": True}
    for name, value in metadata.items():
        setattr(sae.cfg.metadata, name, value)
    return sae


@pytest.fixture(scope="module")
def folder(sae, tmp_path_factory):
    path = tmp_path_factory.mktemp("transcoder")
    sae.save_model(path)
    return str(path)


def test_a_prompt_is_traced(folder, tmp_path, capsys):
    flags = ["--prompt", PROMPT, "--output", str(tmp_path), "--max_pairs", "10"]
    assert main(["trace", folder, *flags]) == 0
    printed = capsys.readouterr().out
    for said in ("next: ", "features: ", "pairs: 10", "replacement score", "rank correlation"):
        assert said in printed
    content = json.loads((tmp_path / "def-read-path-return.json").read_text())
    assert content["metadata"]["prompt"] == "<|endoftext|>" + PROMPT
    assert content["metadata"]["scan"] == "stdlib-6l"
    listed = json.loads((tmp_path / "graph-metadata.json").read_text())
    assert listed["graphs"] == [content["metadata"]]


def test_feature_files_beside_the_graph(folder, tmp_path):
    flags = ["--prompt", PROMPT, "--output", str(tmp_path), "--slug", "a", "--n_ablations", "0"]
    assert main(["trace", folder, *flags, "--feature_files"]) == 0
    content = json.loads((tmp_path / "a.json").read_text())
    assert content["metadata"]["scan"] == "./data/features/a"
    nodes = [n for n in content["nodes"] if n["feature_type"] == "cross layer transcoder"]
    for node in nodes:
        feature = json.loads((tmp_path / "features" / "a" / f"{node['feature']}.json").read_text())
        assert feature["index"] == int(node["node_id"].split("_")[1])
        assert node["clerp"].startswith(f"#{feature['index']} \u2192 ")
    assert (
        len(list((tmp_path / "features" / "a").iterdir())) == len({n["feature"] for n in nodes}) > 0
    )


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--prompt", ""], "prompt="),
        (["--prompt", "a " * 600], "context of 512"),
        (["--prompt", "a", "--max_logits", "0"], "max_logits=0"),
        (["--prompt", "a", "--node_threshold", "2"], "node_threshold=2.0"),
        (["--prompt", "a", "--n_ablations", "-1"], "n_ablations=-1"),
        (["--prompt", "a", "--slug", "../a"], "slug="),
        (["--prompt", "a", "--device", "nowhere"], "device="),
        (["--prompt", "a", "--max_feature", "3"], "max_feature"),
        ([], "--prompt"),
    ],
)
def test_wrong_flags_end_in_a_sentence(folder, tmp_path, flags, said, capsys):
    assert main(["trace", folder, "--output", str(tmp_path), *flags]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error


def test_what_cannot_be_traced_ends_in_a_sentence(sae, tmp_path, capsys):
    assert main(["trace", str(tmp_path / "nothing"), "--prompt", "a"]) == 2
    assert "nothing" in capsys.readouterr().err
    names = sae.cfg.metadata.hook_names
    sae.cfg.metadata.hook_names = [f"blocks.{i // 2}.hook_resid_post" for i in range(12)]
    sae.save_model(tmp_path)
    sae.cfg.metadata.hook_names = names
    assert main(["trace", str(tmp_path), "--prompt", "a", "--output", str(tmp_path / "g")]) == 2
    assert "hook_mlp_out" in capsys.readouterr().err


def test_evaluations_say_what_all_mlps_replaced_cost(sae, embedded_model, capsys):
    model = StackedHooks(embedded_model, names_of(6))
    tokens = embedded_model.to_tokens(PROMPT * 4)
    special = [embedded_model.tokenizer.bos_token_id]
    data = EvaluationData(model, [tokens], special, EvaluationSettings(n_pairs=10))
    evaluation = evaluate_dictionary(sae, data)
    replaced = evaluation.replaced_model
    causal = evaluation.splicing.together["causal"]
    assert replaced.replaced.ce == pytest.approx(causal.ce, rel=1e-4)
    assert replaced.with_errors.ce == pytest.approx(evaluation.ce_clean, abs=1e-3)
    print_evaluation(evaluation, "a")
    assert "all MLPs replaced at once" in capsys.readouterr().out
