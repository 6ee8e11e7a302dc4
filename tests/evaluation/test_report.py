"""What is printed of an evaluation: within 100 columns, and with nothing taken for markup."""

import pytest

from sae_lens_poly.evaluation.evaluate import Evaluation, Figures
from sae_lens_poly.evaluation.report import print_evaluation, save_picture
from sae_lens_poly.evaluation.splicing import SpliceFigures, Splices

FIGURES = Figures(0.12345, 0.1, 14444.0, 53.99, 0.78, 132.1, 20, 1650, 12048, 0.5, 4.6, {1: 0.9})
KINDS = ("clean", "causal", "linear", "zero", "mean")


def evaluation(hooks, degrees=(1, 2, 3), ks=(1, 2, 5)):
    by_kind = dict.fromkeys(KINDS, SpliceFigures(11.232, -0.5026, 0.1, 9.3331, 0.1))
    figures = Figures(**{**vars(FIGURES), "degree_shares": dict.fromkeys(degrees, 0.1)})
    score = {"n_tasks": 20, "f1": 0.5, "f1_error": 0.01, "accuracy": 0.6, "accuracy_error": None}
    splices = Splices(1.95, 9, 9, dict.fromkeys(hooks, by_kind), [by_kind] * len(hooks), by_kind)
    return Evaluation(
        per_hook=dict.fromkeys(hooks, figures),
        pooled=figures,
        l0=32.0,
        n_dead=20,
        n_dense=1650,
        d_sae=2048,
        n_tokens=16317,
        n_tokens_spliced=4063,
        ce_clean=1.95,
        splicing=splices,
        probing={"set [/b].jsonl": {f"raw at {hooks[-1]}": {str(k): score for k in ks}}},
    )


@pytest.mark.parametrize(
    "hooks",
    [
        [f"blocks.{i}.hook_resid_post" for i in range(6)],
        [
            f"{name}/model.layers.{i}"
            for name in ("a-base-model", "a-tuned[/b]-model")
            for i in (1, 2)
        ],
        ["x" * 80, "y" * 120],
        ["[bold]blocks.0[/bold]"],
    ],
)
@pytest.mark.parametrize("ks", [(1, 2, 5), range(1, 30)])
def test_tables_fit(hooks, ks, capsys):
    print_evaluation(evaluation(hooks, ks=ks), "dictionary in [/b] [red]")
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 100
    assert "[/b] [red]" in printed
    assert "set [/b].jsonl" in printed
    assert printed.count("0.500 ± 0.010") == len(ks)
    assert printed.count("-0.5026") >= 3
    if len(hooks[0]) < 36:
        assert all(hook in printed for hook in hooks)


def test_names_with_a_dollar_sign_are_drawn_as_they_are(tmp_path):
    from sae_lens import SAE

    from sae_lens_poly.architectures.crosscoders.config import CrosscoderConfig

    sae = SAE.from_dict(CrosscoderConfig(d_in=64, n_hooks=2, d_sae=16).to_dict())
    sae.cfg.metadata.model_name = "a$^b"
    save_picture(sae, evaluation(["m$^/blocks.0.x", "m$_/blocks.1.x"]), tmp_path / "p.png")
    assert (tmp_path / "p.png").stat().st_size > 10_000
