"""Command lines that are wrong in one word."""

from __future__ import annotations

import random
from pathlib import Path

SMALL = (
    *("--hook_name", "blocks.{1,2}.hook_resid_post", "--training_tokens", "512"),
    *("--train_batch_size_tokens", "128", "--context_size", "32", "--d_sae", "32", "--k", "4"),
    *("--rank_2", "4", "--rank_3", "4", "--n_batches_in_buffer", "16"),
    *("--store_batch_size_prompts", "4"),
)

_NO_NUMBER = ("nan", "inf", "-inf", "1e400", "many", "", "1,5", "0x10", "--", "None")
_NO_COUNT = (*_NO_NUMBER, "0", "-1", "2.5", "1e3", "True", str(10**30))

#: Flags of ``train`` to values that they cannot have.
TRAIN: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(
        (
            *("training_tokens", "train_batch_size_tokens", "context_size", "d_sae", "k"),
            *("store_batch_size_prompts", "n_batches_in_buffer", "rank_2", "rank_3"),
            *("dead_feature_window", "feature_sampling_window"),
        ),
        _NO_COUNT,
    ),
    **dict.fromkeys(("n_checkpoints", "lr_warm_up_steps", "lr_decay_steps"), (*_NO_NUMBER, "-1")),
    "lr": (*_NO_NUMBER, "0", "-1"),
    "lr_end": ("nan", "inf", "-1", "many"),
    "adam_beta1": ("nan", "1", "2", "-0.1", "many"),
    "adam_beta2": ("nan", "1", "2", "-0.1", "many"),
    "lr_scheduler_name": ("", "linear", "constant_", "Cosine", "7"),
    "architecture": ("", "poly", "poly_crosscoder ", "crosscoders", "None"),
    "hook_name": (
        *("", ",", "{", "}", "{1..2", "blocks.{1..2}", "blocks.99.hook_resid_post"),
        *("{1..9999}{1..9999}{1..9999}", "blocks.{1,1}.hook_resid_post", "hook_embed,hook_embed"),
        *("blocks.{1..99999}.hook_resid_post", "blocks.{-1..2}.hook_resid_post", "a" * 70_000),
    ),
    "model_name": ("", "..", "no-such-model", "stdlib-6l,stdlib-6l", "stdlib-6l,", "/", "\0"),
    "model_class_name": ("", "NoSuchModel", "AutoModel"),
    "dataset_path": ("/", "..", "no/such", "missing.jsonl", "/dev/null", "\0"),
    "output_path": ("/dev/null", "/dev/null/x", "/proc/x", "\0"),
    "checkpoint_path": ("/dev/null", "/dev/null/x", "/proc/x", "\0"),
    "resume_from_checkpoint": ("", "/", "..", "no-such", "/dev/null", "\0"),
    "dtype": ("float16", "int8", "float", "", "None"),
    "device": ("cuda:99", "tpu", "", "meta"),
    "seed": ("nan", "many", "1.5", ""),
    "decoder_init_norm": ("nan", "inf", "-1", "many"),
    "threshold_lr": ("nan", "inf", "-1", "2", "many"),
    "aux_loss_coefficient": ("nan", "inf", "-1", "many"),
    "mask_p": ("nan", "inf", "-0.1", "1.1", "1", "many"),
    "structure": ("", "free", "causal", "None"),
    "sparsifier": ("", "top_k", "None"),
    "degree": ("0", "1", "4", "nan", "many"),
    "n_hooks": ("0", "-1", "3", "nan", "many"),
    "d_in": ("0", "-1", "3", "nan", "many"),
    "encoder_weights": ("", "sparse", "cp"),
    "exclude_special_tokens": ("many",),
    "prepend_bos": ("many",),
    "log_to_wandb": ("many",),
    "no_such_flag": ("1",),
    "training_tok": ("512",),
    "arch": ("poly_topk",),
}

#: Flags of ``evaluate`` and ``compare`` to values that they cannot have.
EVALUATE: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(
        ("n_batches", "batch_size_prompts", "n_splice_batches", "n_coherence_tokens"),
        (*_NO_COUNT,),
    ),
    "n_headroom_tokens": ("-1", "nan", "many", str(10**30)),
    "dataset_path": ("/", "..", "no/such", "missing.jsonl", "/dev/null"),
    "skip_rows": ("-1", "nan", "many", str(10**30)),
    "test_share": ("nan", "0", "1", "-1", "many"),
    "max_texts_per_class": ("nan", "0", "1", "-1", "many"),
    "device": ("cuda:99", "tpu", "", "meta"),
    "output": ("/dev/null", "/dev/null/x", "/proc/x"),
    "probing": ("missing.jsonl", "..", "/", "no/such"),
    "no_such_flag": ("1",),
    "n_bat": ("1",),
}
COMPARE: dict[str, tuple[str, ...]] = {
    "seeds": ("0", "-1", "nan", "many", "2.5"),
    "jobs": ("0", "-1", "nan", "many", "2.5"),
    "arms": ("no such arm", ""),
    "learning_rates": ("nan", "inf", "0", "-1", "1e400", "many"),
    "training_tokens": ("0", "-1", "nan", "many", "100"),
    "model_name": ("no-such-model", "..", ""),
    "text": ("missing.jsonl", "no/such", "..", "/"),
    "output": ("/dev/null", "/dev/null/x", "/proc/x"),
    "preset": ("", "no-such", "stdlib-crosscoder"),
    "device": ("cuda:99", "tpu", "meta"),
}


def wrong_command_line(
    rng: random.Random, dictionary: Path, checkpoint: Path, comparison: Path
) -> tuple[list[str], str]:
    """Arguments, and what is wrong with them."""
    command = rng.choices(
        ("train", "evaluate", "compare", "export", "upload", "other"), (60, 15, 12, 5, 5, 3)
    )[0]
    flags = {"train": TRAIN, "evaluate": EVALUATE, "compare": {**COMPARE, **EVALUATE}}.get(command)
    if flags is not None:
        name = rng.choice(list(flags))
        value = rng.choice(flags[name])
        before = {
            "train": list(SMALL),
            "evaluate": [str(dictionary), "--n_batches", "1", "--probing"],
            "compare": [str(comparison)],
        }[command]
        form = [f"--{name}={value}"] if rng.random() < 0.7 else [f"--{name}", value]
        return [command, *before, *form], f"{command} --{name}={value[:60]!r}"
    lines: dict[str, list[list[str]]] = {
        "export": [
            *(["no-such", "x"], [str(dictionary), "x"], [str(checkpoint), str(checkpoint)]),
            *([str(checkpoint)], [], [str(checkpoint), "/dev/null"], ["..", "x"]),
            *([str(checkpoint), "x", "--dens"], [str(checkpoint), "/proc/x"]),
        ],
        "upload": [
            *(["no-such", "a/b:c"], [str(dictionary), "a/b"], [str(checkpoint), "a/b:c"]),
            *([str(dictionary), "a/b:../c"], [str(dictionary)], [], [str(dictionary), ":"]),
            *([str(dictionary), "a b:c"], [str(dictionary), "a/b:c", "--priv"]),
        ],
        "other": [["", "x"], ["fly"], ["--train"], ["Train"], ["train", "evaluate"]],
    }
    arguments = rng.choice(lines[command])
    arguments = arguments if command == "other" else [command, *arguments]
    return list(arguments), " ".join(arguments)[-80:]
