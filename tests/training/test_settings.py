"""Settings out of their range, against each other, or naming what is not there."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from sae_lens_poly import InputError, TrainingCrosscoderConfig, TrainingRunner
from sae_lens_poly.constraints import Choice, Flag, ListOf, Number
from sae_lens_poly.training.flag_table import flags_of_classes
from sae_lens_poly.training.flags import RUN_DEFAULTS, build_config, fit_to_model, read_run
from sae_lens_poly.training.settings import check_runner_config, plain
from tests.training.test_resume import runner_config

TABLE = flags_of_classes()
ARCHITECTURES = ("crosscoder", "poly_topk", "matryoshka_batchtopk", "jumprelu", "standard")
FLAGS = {
    name: (constraint, architecture)
    for architecture in ARCHITECTURES
    for name, constraint in TABLE.of(architecture).items()
}


def wrong_words(constraint):
    """Words that a constraint has to refuse."""
    if isinstance(constraint, Number):
        words = ["nan", "inf", "-inf", "1e400", "-1e400", "many", "", "1,5", "0x10", "1 2"]
        words += ["2.5", "1e3"] if constraint.whole else []
        words += [] if constraint.optional else ["None"]
        just_outside = {
            constraint.at_least: -1,
            constraint.above: 0,
            constraint.at_most: 1,
            constraint.below: 0,
        }
        return words + [repr(n + by) for n, by in just_outside.items() if n is not None]
    if isinstance(constraint, Choice):
        return ["", "no_such", str(constraint.choices[0]).upper(), "7"]
    if isinstance(constraint, Flag):
        return ["", "many", "2", "tru"]
    if isinstance(constraint, ListOf) and isinstance(constraint.of, Number):
        return ["nan", "many", "2.5", "1,2"]
    return []


def refused(name, words, architecture):
    with pytest.raises(InputError) as error:
        read_run([f"--architecture={architecture}", f"--{name}={words}"])
    said = str(error.value)
    assert said.startswith(f"{name}="), said
    assert "\n" not in said


@pytest.mark.parametrize("name", sorted(FLAGS))
def test_every_flag_refuses_what_it_cannot_be(name):
    constraint, architecture = FLAGS[name]
    for words in wrong_words(constraint):
        if name != "architecture":
            refused(name, words, architecture)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        # values
        ("--lr 0", "lr=0.0 must be"),
        ("--lr -1e-3", "lr=-0.001 must be"),
        ("--adam_beta1 1", "adam_beta1=1.0"),
        ("--exclude_special_tokens -5", "exclude_special_tokens='-5'"),
        ("--prefetch_llm_batches -1", "prefetch_llm_batches='-1'"),
        ("--sequence_separator_token -2", "sequence_separator_token='-2'"),
        ("--model_kwargs [1]", "model_kwargs=.1. must be"),
        ("--model_kwargs {", "model_kwargs='{' must be"),
        ("--model_kwargs=" + "[" * 100_000, "model_kwargs="),
        ("--architecture poly", "architecture='poly' must be one of"),
        ("--dtype float16", "dtype='float16'"),
        # flags
        ("--arch poly_topk", "--arch is not a flag.*--architecture"),
        ("--training_tok 512", "--training_tok .*--training_tokens"),
        ("--hook_n x", "--hook_n .*--hook_name"),
        ("--sae.k 3", "--sae.k .*--k"),
        ("--LR 1", "--LR is not a flag"),
        ("--metadata x", "--metadata is not a flag"),
        ("--nolr", "--nolr is not a flag"),
        ("--no_such 1", "--no_such is not a flag of train: train --help"),
        ("--architecture topk --rank_2 4", "--rank_2 is no flag of architecture='topk': poly"),
        ("-lr 1", "'-lr' is not a flag"),
        ("---lr 1", "'---lr' is not a flag"),
        ("--", "'--' is not a flag"),
        ("7", "'7' stands after no flag"),
        ("--lr=1 7", "'7' stands after no flag"),
        ("--lr", "lr needs a value"),
        ("--lr --k 3", "lr needs a value"),
        ("--lr 1 2", "lr='1 2'"),
        ("--output_path", "output_path needs a value"),
        # combinations
        ("--training_tokens 100", "training_tokens=100 is less than one batch"),
        ("--lr_warm_up_steps 991", "lr_warm_up_steps=991 and lr_decay_steps=0 leave -15"),
        ("--lr_decay_steps 991", "lr_warm_up_steps=0 and lr_decay_steps=991 leave -15"),
        ("--lr_warm_up_steps 500 --lr_decay_steps 491", "leave -15 of the run's 976"),
        ("--lr_scheduler_name cosineannealing --lr_warm_up_steps 976", "needs 1"),
        ("--lr_scheduler_name cosineannealingwarmrestarts --n_restart_cycles 999", "needs 999"),
        (
            "--lr_scheduler_name cosineannealing --lr_end 0 --lr_decay_steps 5",
            "lr_decay_steps=5 would decay from lr_end=0",
        ),
        ("--n_batches_in_buffer 1", "train_batch_size_tokens=512 .* = 256"),
        ("--use_chat_formatting --is_dataset_tokenized", "use_chat_formatting=True"),
        ("--seqpos_slice 300 400", "leaves none of the context_size=256"),
        ("--seqpos_slice 0 9 1", "a step above 1"),
        ("--seqpos_slice 1 2 3 4", "seqpos_slice"),
        ("--k 99 --d_sae 98", "k=99 is more than d_sae=98"),
        ("--structure free", "structure='free'"),
        ("--n_hooks 3", "n_hooks=3, but .* names 6"),
        ("--architecture poly_topk --hook_name blocks.{0,1}.hook_resid_post", "for one hook point"),
        ("--architecture topk --model_name stdlib-6l,gpt2", "names 2 with"),
        ("--model_name stdlib-6l,stdlib-6l", "names 'stdlib-6l' twice"),
        ("--model_name ,stdlib-6l", "a comma without a model"),
        ("--log_to_wandb --architecture topk --model_name a/" + "b" * 99, "wandb takes names"),
        # what is not there
        ("--device cuda:99", "device='cuda:99' cannot be used"),
        ("--llm_device meta", "llm_device='meta' cannot be used"),
        ("--act_store_device tpu", "act_store_device='tpu' cannot be used"),
        ("--model_name ./nowhere", "model_name='./nowhere' is not there"),
        ("--model_name file.txt/../folder", "model_name=.* is not there"),
        ("--model_name ./folder", "model_name='./folder' has no config.json"),
        ("--model_class_name HookedMamba", "needs mamba-lens"),
        ("--dataset_path missing.jsonl", "dataset_path='missing.jsonl' is not there"),
        ("--dataset_path ~/text.txt", "dataset_path='~/text.txt' is not there"),
        ("--dataset_path a/b/c", "dataset_path='a/b/c' is not there"),
        ("--dataset_path folder", "dataset_path='folder' is not a folder of text"),
        ("--dataset_path ..", "dataset_path='..' is not a folder of text"),
        ("--dataset_path program", "dataset_path='program' is no file of a known kind"),
        ("--resume_from_checkpoint nowhere", "resume_from_checkpoint='nowhere' is not there"),
        ("--resume_from_checkpoint file.txt", "resume_from_checkpoint='file.txt' is not a folder"),
        ("--from_pretrained_path nowhere", "from_pretrained_path='nowhere' is not there"),
        ("--use_cached_activations --cached_activations_path nowhere", "is not there"),
        ("--output_path file.txt", "output_path='file.txt' cannot be written to"),
        ("--output_path file.txt/x", "output_path='file.txt/x' cannot be written to"),
        ("--checkpoint_path /proc/x", "checkpoint_path='/proc/x' cannot be written to"),
        ("--output_path " + "a" * 300, "output_path='a+' cannot be written to"),
        ("--output_path a\0b", "output_path=.* must be text"),
    ],
)
def test_wrong_flags(flags, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("file.txt").write_text("text")
    Path("program").write_text("text")
    Path("folder").mkdir()
    before = sorted(os.listdir())
    with pytest.raises(InputError, match=words):
        read_run(flags.split(" "))
    assert sorted(os.listdir()) == before


def test_the_last_of_a_flag_counts():
    settings = read_run(["--k", "3", "--verbose", "--k=4", "--noverbose", "--lr", "1", "--lr=2"])
    assert (settings["k"], settings["verbose"], settings["lr"]) == (4, False, 2)


def test_paths_that_can_be_made_are_left_as_they_were(tmp_path):
    read_run(["--output_path", str(tmp_path / "a" / "b"), "--checkpoint_path", str(tmp_path)])
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    def read_only(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", read_only)
    with pytest.raises(InputError, match=r"output_path=.*Permission denied"):
        read_run(["--output_path", str(tmp_path / "a")])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("", (48, 244)),
        ("--training_tokens 10240", (1, 5)),
        ("--lr_warm_up_steps 971", (971, 2)),
        ("--lr_decay_steps 976", (0, 976)),
        ("--lr_decay_steps 971", (2, 971)),
        ("--lr_scheduler_name cosineannealing", (48, 244)),
        ("--lr_scheduler_name cosineannealing --lr_end 0", (48, 0)),
        ("--lr_scheduler_name cosineannealing --lr_warm_up_steps 900", (900, 38)),
        ("--lr_end 0", (48, 244)),
    ],
)
def test_the_default_schedule_makes_room_for_what_is_given(flags, expected):
    settings = read_run(flags.split())
    assert (settings["lr_warm_up_steps"], settings["lr_decay_steps"]) == expected


def test_defaults_follow_the_size_of_a_run():
    assert read_run(["--d_sae", "8"])["k"] == 8
    assert read_run([])["k"] == 32
    assert read_run([])["dead_feature_window"] == 81
    assert read_run(["--training_tokens", "100000000"])["dead_feature_window"] == 1000
    assert read_run(["--dead_feature_window", "7"])["dead_feature_window"] == 7
    large = read_run(["--train_batch_size_tokens", "65536", "--context_size", "100"])
    assert large["n_batches_in_buffer"] * 100 >= 2 * 65536


def test_the_buffer_has_half_a_gigabyte_at_most_where_it_was_not_given():
    def contexts(d_in, *flags):
        cfg = build_config(list(flags))
        return fit_to_model(cfg, d_in).n_batches_in_buffer

    assert contexts(6 * 64) == 1024
    assert contexts(6 * 576) == 2**29 // (4 * 6 * 576) // 256
    assert contexts(12 * 4096) == 128
    assert contexts(12 * 4096, "--n_batches_in_buffer", "1024") == 1024


@pytest.mark.parametrize("name", ["cosineannealing", "cosineannealingwarmrestarts"])
def test_cosines_anneal(name):
    from sae_lens.training.optim import get_lr_scheduler

    from sae_lens_poly.training.flags import build_config

    cfg = build_config(["--training_tokens=102400", f"--lr_scheduler_name={name}"])
    trainer = cfg.to_sae_trainer_config()
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=trainer.lr)
    schedule = get_lr_scheduler(
        trainer.lr_scheduler_name,
        lr=trainer.lr,
        optimizer=optimizer,
        lr_end=trainer.lr_end,
        warm_up_steps=trainer.lr_warm_up_steps,
        decay_steps=trainer.lr_decay_steps,
        training_steps=trainer.total_training_steps,
        num_cycles=trainer.n_restart_cycles,
    )
    rates = []
    for _ in range(trainer.total_training_steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    between = rates[trainer.lr_warm_up_steps : -trainer.lr_decay_steps]
    assert max(between) == pytest.approx(RUN_DEFAULTS["lr"])
    assert min(between) == pytest.approx(RUN_DEFAULTS["lr"] / 10, rel=0.05)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"lr": float("nan")}, "lr=nan"),
        ({"lr": True}, "lr=True"),
        ({"seed": "3"}, "seed='3'"),
        ({"adam_beta2": 1.0}, "adam_beta2=1.0"),
        ({"training_tokens": 512.0}, "training_tokens=512.0"),
        ({"lr_scheduler_name": "linear"}, "lr_scheduler_name='linear'"),
        ({"n_checkpoints": -1}, "n_checkpoints=-1"),
        ({"dead_feature_window": 0}, "dead_feature_window=0"),
        ({"device": "cuda:99"}, "device='cuda:99'"),
        ({"dataset_path": "missing.jsonl"}, "dataset_path='missing.jsonl'"),
        ({"model_name": "./nowhere"}, "model_name='./nowhere'"),
        ({"lr_warm_up_steps": 24}, "lr_warm_up_steps=24"),
        ({"n_batches_in_buffer": 2**30}, "n_batches_in_buffer=1073741824 takes"),
        ({"model_kwargs": {"a": object()}}, "model_kwargs=.*cannot be saved as JSON"),
        ({"verbose": 1}, "verbose=1"),
    ],
)
def test_configs_in_python(changes, words, tmp_path):
    with pytest.raises(InputError, match=words):
        TrainingRunner(runner_config(tmp_path, **changes))


def test_stock_dictionaries_and_logs_are_checked(tmp_path):
    cfg = runner_config(tmp_path)
    cfg.logger.wandb_log_frequency = 0
    with pytest.raises(InputError, match="wandb_log_frequency=0"):
        check_runner_config(cfg)
    from sae_lens import StandardTrainingSAEConfig

    cfg = runner_config(tmp_path, hook_name="blocks.0.hook_resid_post")
    cfg.sae = StandardTrainingSAEConfig(d_in=128, d_sae=64, l1_coefficient=float("nan"))
    with pytest.raises(InputError, match="l1_coefficient=nan"):
        check_runner_config(cfg)


def test_values_that_json_does_not_know_become_plain(tmp_path):
    cfg = runner_config(
        tmp_path,
        lr=np.float32(0.5),
        training_tokens=np.int64(6000),
        output_path=tmp_path / "output",
        dtype=torch.float32,
        device=torch.device("cpu"),
        model_from_pretrained_kwargs={"dtype": torch.bfloat16, "sizes": (np.int8(3), [Path("a")])},
    )
    cfg.sae = TrainingCrosscoderConfig(d_in=256, n_hooks=2, d_sae=np.int64(64), k=8)
    check_runner_config(cfg)
    assert (type(cfg.lr), cfg.lr) == (float, 0.5)
    assert (type(cfg.sae.d_sae), cfg.dtype, cfg.device) == (int, "float32", "cpu")
    assert cfg.output_path == str(tmp_path / "output")
    assert cfg.model_from_pretrained_kwargs == {"dtype": "bfloat16", "sizes": (3, ["a"])}
    assert plain(None) is None


def test_what_is_at_hand_is_not_looked_for(tmp_path):
    cfg = runner_config(tmp_path, model_name="./mine", dataset_path="./mine.jsonl")
    check_runner_config(cfg, overridden=("model_name", "dataset_path"))
