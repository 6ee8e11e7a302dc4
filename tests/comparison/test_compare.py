"""A small comparison from its YAML file to its tables, and what it refuses."""

import json

import pytest
import yaml

from sae_lens_poly import InputError
from sae_lens_poly.cli import main
from sae_lens_poly.comparison import compare as module
from sae_lens_poly.comparison.arms import presets, read_comparison
from sae_lens_poly.comparison.compare import run_comparison
from sae_lens_poly.comparison.table import Cell
from sae_lens_poly.dictionary_folder import load_dictionary
from sae_lens_poly.training.runner import StoppedRun, TrainingRunner

CONTENT = {
    "model_name": "stdlib-6l",
    "hook_name": "blocks.{1..2}.hook_resid_post",
    "dataset_path": "stdlib",
    "training_tokens": 4096,
    "d_sae": 32,
    "k": 4,
    "learning_rates": [0.001, 0.01],
    "run": {
        "train_batch_size_tokens": 256,
        "context_size": 64,
        "store_batch_size_prompts": 4,
        "n_batches_in_buffer": 8,
    },
    "arms": {
        "separate": {"architecture": "crosscoder", "separate": True},
        "interactions (4)": {"architecture": "poly_crosscoder", "rank_2": 4, "rank_3": 4},
    },
}


@pytest.fixture
def labelled(tmp_path):
    rows = [{"text": f"import {w}\n" * 3 + f"x = {i}", "label": w} for i in range(60) for w in "ab"]
    path = tmp_path / "labelled.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return str(path)


def written(tmp_path, **fields):
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump({**CONTENT, **fields}))
    return str(path)


@pytest.mark.slow
def test_trains_evaluates_and_repeats_nothing(tmp_path, labelled, capsys, monkeypatch, drawn):
    settings = {"n_batches": 1, "n_splice_batches": 1, "batch_size_prompts": 2, "n_pairs": 50}
    path = written(tmp_path, evaluation={**settings, "probing": [labelled], "probe_ks": [1, 2]})
    command = ["compare", path, "--seeds", "2", "--output", str(tmp_path / "out")]
    assert main(command) == 0
    printed = capsys.readouterr().out
    content = json.loads((tmp_path / "out" / "table.json").read_text())
    assert printed.startswith((tmp_path / "out" / "table.md").read_text()[:100])
    for arm in CONTENT["arms"]:
        assert content["learning_rates"][arm] in CONTENT["learning_rates"]
        tuned = content["tuning"][arm]
        assert tuned[str(content["learning_rates"][arm])] == max(tuned.values())
    table = content["tables"]["Reconstruction and latents, pooled over hook points"]
    ev = table["interactions (4)"]["explained variance"]
    assert len(set(ev["values"])) == 2
    assert ev["mean"] == pytest.approx(sum(ev["values"]) / 2)
    assert ev["standard_error"] == pytest.approx(abs(ev["values"][0] - ev["values"][1]) / 2)
    assert table["separate"]["latents"]["mean"] == 2 * 32
    probed = content["tables"][f"Sparse probing: {labelled}"]
    evaluations = [
        json.loads((tmp_path / "out/runs/separate" / f"seed-{i}" / "evaluation.json").read_text())
        for i in range(2)
    ]
    names = [f"codes at blocks.{i}.hook_resid_post" for i in (1, 2)]
    by_seed = [[own["probing"][labelled][n]["1"]["f1"] for n in names] for own in evaluations]
    assert probed["separate"]["F1, K=1"]["values"] == pytest.approx([sum(f1) / 2 for f1 in by_seed])
    axes = next(axes for axes in drawn[-1].axes if axes.get_title().endswith("explained variance"))
    dots = [line for line in axes.lines if line.get_marker() == "o"]
    arms = [label.get_text() for label in axes.get_yticklabels()]
    assert list(dots[arms.index("interactions (4)")].get_xdata()) == ev["values"]
    assert "codes at blocks.2.hook_resid_post" in printed

    # evaluate prints the same figures for one of the runs
    run = tmp_path / "out" / "runs" / "interactions-4" / "seed-1"
    assert main(["evaluate", str(run), "--n_headroom_tokens", "0"]) == 0
    again = json.loads((run / "evaluation.json").read_text())
    assert again["pooled"]["explained_variance"] == pytest.approx(ev["values"][1], abs=1e-5)
    f1 = again["probing"][labelled]["codes"]["2"]["f1"]
    assert f1 == pytest.approx(probed["interactions (4)"]["F1, K=2"]["values"][1], abs=1e-5)

    # a second call finds everything there
    monkeypatch.setattr(TrainingRunner, "run", None)
    monkeypatch.setattr(module, "evaluate_saved", None)
    assert main([*command, "--jobs", "1"]) == 0
    assert json.loads((tmp_path / "out" / "table.json").read_text())["tables"] == content["tables"]


@pytest.mark.slow
def test_processes_give_what_one_does(tmp_path, capfd):
    comparison = read_comparison(written(tmp_path, learning_rates=[0.003]))
    for jobs in (1, 2):
        capfd.readouterr()
        run_comparison(comparison, tmp_path / str(jobs), [0], jobs, evaluate=False)
        # Bars of several processes would overwrite each other.
        assert ("training:" in capfd.readouterr().err) == (jobs == 1)
    for arm in ("separate", "interactions-4"):
        one, two = (
            load_dictionary(tmp_path / jobs / "runs" / arm / "seed-0") for jobs in ("1", "2")
        )
        assert (one.W_dec - two.W_dec).abs().max() < 1e-4


@pytest.mark.slow
def test_a_stopped_comparison_goes_on(tmp_path, monkeypatch):
    comparison = read_comparison(written(tmp_path, learning_rates=[0.003]))
    reference = run_comparison(comparison, tmp_path / "whole", [0], evaluate=False)
    assert reference["learning_rates"] == {"separate": 0.003, "interactions (4)": 0.003}

    from sae_lens_poly.training import runner

    class Stopping(runner.StepBoundary):
        def __next__(self):
            self.signalled = self.trainer.n_training_samples >= 2048
            return super().__next__()

    with monkeypatch.context() as patched:
        patched.setattr(runner, "StepBoundary", Stopping)
        with pytest.raises(StoppedRun):
            run_comparison(comparison, tmp_path / "out", [0], evaluate=False)
    assert list((tmp_path / "out").rglob("trainer_state.pt"))
    run_comparison(comparison, tmp_path / "out", [0], evaluate=False)
    assert not list((tmp_path / "out").rglob("*.unfinished"))
    assert not list((tmp_path / "out").rglob("trainer_state.pt"))
    for arm in ("separate", "interactions-4"):
        sae = load_dictionary(tmp_path / "out" / "runs" / arm / "seed-0")
        assert sae.cfg.n_hooks == 2


@pytest.mark.slow
def test_results_of_other_settings_are_not_taken(tmp_path):
    first = read_comparison(written(tmp_path, learning_rates=[0.003]))
    run_comparison(first.only(["separate"]), tmp_path / "out", [0], evaluate=False)
    other = read_comparison(written(tmp_path, learning_rates=[0.003], k=5)).only(["separate"])
    with pytest.raises(InputError, match="k=4, and this comparison has k=5"):
        run_comparison(other, tmp_path / "out", [0], evaluate=False)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"widths": 3}, "unknown field 'widths'"),
        ({"d_sae": None}, "d_sae is missing"),
        ({"arms": {"a": {"k": 3}}}, "'a' has no architecture"),
        ({"arms": {"a": {"architecture": "crosscoder", "training_tokens": 1}}}, "all arms share"),
        ({"arms": {"a": {"architecture": "none_such"}}}, "the arm 'a': .*none_such"),
        ({"arms": {n: {"architecture": "crosscoder"} for n in ("a b", "a-b")}}, "more than signs"),
        ({"evaluation": {"n_batch": 3}}, "unknown field 'n_batch'"),
        ({"evaluation": {"probing": "a.csv"}}, "probing='a.csv' is not a list"),
        ({"evaluation": {"probe_ks": [1, 64]}}, "probe_ks has 64"),
        ({"run": {"training_tokens": 10}}, "training_tokens stands under run"),
        ({"arms": ["crosscoder"]}, "arms is not a mapping"),
        ({"arms": {"a": {"architecture": "crosscoder", "context_size": 9}}}, "all arms share"),
        ({"arms": {"a": {"architecture": "topk", "separate": True}}}, "'a' is separate"),
        (
            {"arms": {"a": {"architecture": "crosscoder", "sparsifier": "topk", "separate": True}}},
            "'a' is separate",
        ),
        ({"dataset_path": "some/text"}, "has no held-out part"),
        ({"arms": {"a": {"architecture": "crosscoder", "mask_p": 3}}}, "the arm 'a': mask_p=3"),
        ({"learning_rates": [float("nan")]}, r"learning_rates=\[nan\]"),
        ({"learning_rates": [0.001, 1e-3]}, "0.001 twice"),
        ({"learning_rates": {"a": 1}}, "learning_rates="),
        ({"training_tokens": "many"}, "training_tokens='many'"),
        ({"training_tokens": [4096, 1]}, "training_tokens='4096 1'"),
        ({"d_sae": 0.5}, "d_sae='0.5'"),
        ({"k": float("inf")}, "k=inf"),
        ({"hook_name": ["a"] * 2}, "hook_name='a a'"),
        ({"record_gb": -1}, "record_gb=-1"),
        ({"run": {"lr_scheduler_name": "linear"}}, "the arm .*: lr_scheduler_name"),
        ({"run": {"context": 64}}, "--context is not a flag of train"),
        ({"run": {"lr_warm_up_steps": 99}}, "lr_warm_up_steps=99"),
        ({"run": {"device": "cuda:99"}}, "device='cuda:99'"),
        ({"run": "fast"}, "run is not a mapping"),
        ({"arms": {"a": 3}}, "'a' is not a mapping"),
        ({"arms": {"..": {"architecture": "crosscoder"}}}, "needs a name"),
        ({"arms": {"a" * 300: {"architecture": "crosscoder"}}}, "needs a name"),
        ({"arms": {"a": {"architecture": "crosscoder", "separate": "maybe"}}}, "separate='maybe'"),
        (
            {"arms": {"a": {"architecture": "crosscoder", "learning_rates": []}}},
            "no learning_rates",
        ),
        ({"arms": {"a": {"architecture": "poly_topk"}}}, "is for one hook point"),
        ({"evaluation": {"n_batches": float("nan")}}, "n_batches=nan"),
        ({"evaluation": {"probe_ks": [0]}}, "probe_ks="),
        ({"evaluation": {"probing": ["missing.jsonl"]}}, "probing='missing.jsonl'"),
        ({"evaluation": {"dataset_path": "missing.jsonl"}}, "dataset_path='missing.jsonl'"),
    ],
)
def test_wrong_files_are_refused_before_training(tmp_path, fields, message):
    with pytest.raises(InputError, match=message):
        read_comparison(written(tmp_path, **fields))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [", "cannot be read as YAML"),
        (b"a: \xff", "not UTF-8: .* at byte 3"),
        (b"a: " + b"9" * 5000, "cannot be read as YAML"),
        (b"[" * 5000, "cannot be read as YAML"),
        (b"k: 1\nk: 2", "'k' stands twice"),
        (b"run: {lr: 1, lr: 2}", "'lr' stands twice"),
        (b"!!python/object/apply:os.getcwd []", "cannot be read as YAML"),
        (b"- a", "has no fields"),
        (b"", "has no fields"),
        (b"&a {a: *a}", "more than 10,000 values"),
        (
            b"a: &a [1,1,1,1,1,1,1,1,1]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\n"
            b"c: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\n"
            b"e: [*d,*d,*d,*d,*d,*d,*d,*d,*d]",
            "more than 10,000 values",
        ),
        (b"#" * 1_000_001, "more than 65,536 bytes"),
    ],
)
def test_files_that_are_no_comparison(tmp_path, content, message):
    path = tmp_path / "small.yaml"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_comparison(str(path))


def test_settings_may_be_shared_by_an_alias(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(
        "# räume\n{model_name: stdlib-6l, hook_name: blocks.1.hook_resid_post, k: 4, d_sae: 32,"
        " dataset_path: stdlib, training_tokens: 4096, learning_rates: 1e-3,"
        " arms: {a: &a {architecture: topk}, b: {<<: *a, k: 3}}}",
        encoding="utf-8",
    )
    arms = read_comparison(str(path)).arms
    assert [(arm.name, arm.flags["k"]) for arm in arms] == [("a", 4), ("b", 3)]


@pytest.mark.slow
def test_wrong_calls_are_refused(tmp_path, capsys):
    for flags, message in (
        (["no_such"], "the presets are"),
        ([], "either a YAML file or --preset"),
        (["--preset", "stdlib-polysae", "--seeds", "0"], "seeds=0"),
        (["--preset", "stdlib-polysae", "--arms", "topk"], "there is no 'topk'"),
    ):
        assert main(["compare", *flags]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.slow
def test_presets_can_be_read():
    for name in presets():
        comparison = read_comparison(name)
        assert len({arm.name for arm in comparison.arms}) == len(comparison.arms) >= 4
        of_k = {"stdlib-frontier": {4, 8, 16, 32, 64}}.get(name, {32})
        assert {arm.flags["k"] for arm in comparison.arms} == of_k


def test_cells():
    assert Cell((1.0, 2.0, 3.0)).text(2) == "2.00 ± 0.58"
    assert Cell((1.0,)).text(1) == "1.0"


@pytest.mark.slow
def test_arms_are_trained_on_cached_activations(tmp_path):
    run, folder = CONTENT["run"], tmp_path / "cache"
    of_text = {name: CONTENT[name] for name in ("model_name", "hook_name", "training_tokens")}
    flags = [word for name, value in {**of_text, **run}.items() for word in (f"--{name}", value)]
    assert main(["cache", str(folder), *map(str, flags)]) == 0
    cached = {"use_cached_activations": True, "cached_activations_path": str(folder)}
    settings = {"n_batches": 1, "n_splice_batches": 1, "batch_size_prompts": 2, "n_pairs": 50}
    path = written(
        tmp_path,
        run={**run, **cached},
        learning_rates=[0.001],
        evaluation={**settings, "probing": []},
    )
    assert main(["compare", path, "--seeds", "1", "--output", str(tmp_path / "out")]) == 0
    for arm in ("separate", "interactions-4"):
        sae = load_dictionary(tmp_path / "out" / "runs" / arm / "seed-0")
        (text,) = sae.cfg.metadata.texts_read
        assert text["n_rows"] > 0
        assert text["sample"]
    assert not (tmp_path / "out" / "activations").exists()
