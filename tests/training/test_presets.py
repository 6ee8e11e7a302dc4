"""What presets set, and what they leave to the flags that are given."""

import pytest

from sae_lens_poly import InputError
from sae_lens_poly.architectures.crosscoders.hook_structure import make_structure
from sae_lens_poly.cli import main
from sae_lens_poly.training.flags import build_config, read_run
from sae_lens_poly.training.presets import PRESETS

CLT = ["--preset", "clt"]


def groups(*flags):
    """Names of the hook points that each group of latents reads and writes."""
    cfg = build_config([*CLT, *flags])
    names = cfg.hook_name.replace(" ", "").split(",")
    sae = cfg.sae
    structure = make_structure(sae.structure, sae.reads, sae.writes, sae.n_hooks, sae.d_sae)
    return [
        ([names[hook] for hook in of.reads], sorted(names[hook] for hook in of.writes))
        for of in structure.groups
    ]


def test_the_recipe_of_january_2025():
    settings = read_run([*CLT, "--training_tokens", "102400"])
    expected = {
        "architecture": "crosscoder",
        "sparsifier": "jumprelu",
        "jumprelu_sparsity_loss_mode": "tanh",
        "jumprelu_tanh_scale": 4.0,
        "jumprelu_bandwidth": 2.0,
        "jumprelu_init_threshold": 0.1,
        "jumprelu_ste_to_input": True,
        "sparsity_penalty": "l2_of_norms",
        "pre_act_loss_coefficient": 3e-6,
        "pre_act_loss_on": "all",
        "l0_warm_up_steps": 100,
        "lr_decay_steps": 20,
        "n_hooks": 12,
    }
    assert {name: settings[name] for name in expected} == expected
    cfg, flags = build_config(CLT), PRESETS["clt"].FLAGS
    of_run = {name: flags[name] for name in ("train_batch_size_tokens", "lr", "hook_name")}
    assert {name: getattr(cfg, name) for name in of_run if name != "hook_name"} == {
        name: value for name, value in of_run.items() if name != "hook_name"
    }
    of_dictionary = {name: value for name, value in flags.items() if name not in of_run}
    assert {name: getattr(cfg.sae, name) for name in of_dictionary} == {
        **of_dictionary,
        "architecture": cfg.sae.architecture,
    }


def test_latents_read_one_mlp_and_write_it_and_later_ones():
    names = [f"blocks.{layer}.{hook}" for hook in ("mlp_in", "hook_mlp_out") for layer in (2, 0, 1)]
    found = groups("--hook_name", ",".join(names), "--d_sae", "6")
    assert found == [
        ([f"blocks.{layer}.mlp_in"], [f"blocks.{i}.hook_mlp_out" for i in (0, 1, 2) if i >= layer])
        for layer in (0, 1, 2)
    ]


def test_given_flags_replace_those_of_a_preset():
    flags = ["--l0_coefficient", "3", "--d_sae", "600", "--l0_warm_up_steps", "7", "--k", "5"]
    settings = read_run([*flags, *CLT])
    assert [settings[flag[2:]] for flag in flags[::2]] == [3.0, 600, 7, 5.0]
    settings = read_run([*CLT, "--architecture", "poly_crosscoder", "--rank_2", "8"])
    assert (settings["architecture"], settings["sparsifier"]) == ("poly_crosscoder", "jumprelu")
    settings = read_run([*CLT, "--reads", "0", "--writes", "6..11"])
    assert (settings["reads"], settings["writes"]) == ("0", "6..11")
    assert "reads" not in read_run([*CLT, "--structure", "weakly_causal"])


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--preset", "plt"], "preset='plt' must be one of 'clt'"),
        (["--preset"], "preset needs a value"),
        ([*CLT, "--architecture", "topk"], "preset='clt' sets sparsifier"),
        ([*CLT, "--hook_name", "blocks.{0..5}.hook_resid_post"], "needs inputs of MLPs"),
        ([*CLT, "--hook_name", "blocks.1.mlp_in,blocks.0.hook_mlp_out"], "needs inputs of MLPs"),
        ([*CLT, "--hook_name", "blocks.0.hook_mlp_out"], "needs inputs of MLPs"),
        ([*CLT, "--hook_name", "model.layers.0,model.layers.1"], "the layer of 'model.layers.0'"),
    ],
)
def test_what_is_refused(flags, said):
    with pytest.raises(InputError, match=said):
        read_run(flags)


def test_help_shows_what_a_preset_sets(capsys):
    assert main(["train", *CLT, "--help"]) == 0
    assert "--jumprelu_sparsity_loss_mode tanh" in capsys.readouterr().out
