"""The recorded flags are those of the classes, and of SAELens' own command line."""

import contextlib
import io
import json
import re

import pytest
from sae_lens.llm_sae_training_runner import _parse_cfg_args as parse_sae_lens_flags

from sae_lens_poly.constraints import Number
from sae_lens_poly.errors import InputError
from sae_lens_poly.training.flag_table import (
    OF_COMMAND,
    RECORD,
    FlagTable,
    flag_table,
    flags_of_classes,
)
from sae_lens_poly.training.flags import RUN_DEFAULTS, build_config, fit_to_model
from sae_lens_poly.training.settings import CONSTRAINTS, NOT_SETTINGS

TABLE = flags_of_classes()


def test_the_record_is_that_of_the_classes():
    written = RECORD.read_text(encoding="utf-8")
    assert written == TABLE.to_json(), "run python -m scripts.write_flags"
    read = FlagTable.from_json(json.loads(written))
    assert (read.run, read.dictionaries) == (TABLE.run, TABLE.dictionaries)
    assert read.defaults == json.loads(json.dumps(TABLE.defaults))


def test_another_version_of_saelens_is_asked_itself(monkeypatch):
    monkeypatch.setattr("sae_lens_poly.training.flag_table.version", lambda name: "6.99.0")
    monkeypatch.setattr("sae_lens_poly.training.flag_table.flags_of_classes", lambda: "asked")
    assert flag_table() == "asked"


@pytest.mark.parametrize("architecture", list(TABLE.dictionaries))
def test_flags_are_those_of_saelens(architecture):
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), pytest.raises(SystemExit):
        parse_sae_lens_flags(["--architecture", architecture, "--help"])
    # the usage, before the descriptions
    usage = printed.getvalue().split("\n\n")[0]
    theirs = set(re.findall(r"\[--?([a-z][\w.]*)", usage)) - {"h", "sae"}
    assert theirs - NOT_SETTINGS == set(TABLE.of(architecture)) - {"architecture", *OF_COMMAND}


@pytest.mark.parametrize(
    "flags",
    [
        "--architecture topk --k 4 --seqpos_slice 1 -1 --prefetch_llm_batches 2 --noprepend_bos",
        "--architecture batchtopk --k 4.5 --verbose false --autocast --exclude_special_tokens no",
        '--architecture poly_topk --k 3 --rank_2 4 --model_kwargs {"a":1} --sae.dtype bfloat16',
        "--architecture matryoshka_batchtopk -k 2 --matryoshka_widths 4 8 --autocast_lm",
        "--architecture=jumprelu --lr=1e-3 --sequence_separator_token none --lr_end 1e-5",
        "--architecture crosscoder --n_hooks 2 --hook_name blocks.{0,1}.hook_resid_post -k 4",
    ],
)
def test_values_are_those_that_saelens_reads(flags):
    common = {
        "model_name": "stdlib-6l",
        "dataset_path": "stdlib",
        "d_in": "256",
        "d_sae": "8",
        "hook_name": "blocks.0.hook_resid_post",
        "model_class_name": "HookedTransformer",
        "is_dataset_tokenized": "False",
        "log_to_wandb": "False",
        "lr_warm_up_steps": "0",
        "lr_decay_steps": "0",
        "wandb_id": "same",
        "training_tokens": "100000",
        "train_batch_size_tokens": "256",
        "context_size": "128",
        "n_batches_in_buffer": "20",
        "store_batch_size_prompts": "8",
        "dead_feature_window": "100",
    }
    words = [*(f"--{name}={value}" for name, value in common.items()), *flags.split()]
    ours = {
        "--verbose": "False",
        "--lr": str(RUN_DEFAULTS["lr"]),
        "--exclude_special_tokens": "True",
    }
    ours = [f"{name}={value}" for name, value in ours.items()]
    assert build_config(words).to_dict() == parse_sae_lens_flags([*ours, *words]).to_dict()


def test_every_number_of_a_run_has_a_range():
    for name, constraint in TABLE.run.items():
        if isinstance(constraint, Number):
            bounds = (constraint.at_least, constraint.above, constraint.at_most, constraint.below)
            assert any(bound is not None for bound in bounds), name


@pytest.mark.parametrize("architecture", ["standard", "gated", "topk", "jumprelu", "batchtopk"])
def test_every_number_of_saelens_dictionaries_has_a_range(architecture):
    for name, constraint in TABLE.dictionaries[architecture].items():
        assert not isinstance(constraint, Number) or name in CONSTRAINTS


def test_sizes_come_from_the_model_where_none_are_given():
    assert fit_to_model(build_config([]), 48).sae.d_in == 48
    assert fit_to_model(build_config(["--d_in=96"]), 48).sae.d_in == 96
    states = "model.layers.0.linear_attn.state[head=0]"
    matrices = ["--architecture=write_sae", f"--hook_name={states}"]
    cfg = fit_to_model(build_config(matrices), 128, (8, 16))
    assert (cfg.sae.d_in, cfg.sae.d_k) == (128, 8)
    with pytest.raises(InputError, match="recurrent states of one shape"):
        fit_to_model(build_config(matrices), 128)
