"""Runs of a second on a llama without training, and texts that tell which row they are."""

import torch
from datasets import Dataset
from sae_lens import LanguageModelSAERunnerConfig
from sae_lens.config import LoggingConfig
from sae_lens.load_model import HookedProxyLM

from sae_lens_poly import StackedHooks, TrainingPolyCrosscoderConfig
from sae_lens_poly.embedded.model import load_embedded_tokenizer
from tests.models.tiny_llama import tiny_llama

HOOKS = "model.layers.{1,2}"
CONTEXT = 16


def tiny_stack(hook_name=HOOKS):
    return StackedHooks(HookedProxyLM(tiny_llama(), load_embedded_tokenizer()), hook_name)


def tiny_config(folder, **changes):
    """2,048 tokens, 64 of them a step, at two hook points of width 32."""
    settings = {
        "sae": TrainingPolyCrosscoderConfig(d_in=64, d_sae=32, n_hooks=2, k=4, rank_2=4, rank_3=4),
        "model_name": "tiny",
        "model_class_name": "AutoModelForCausalLM",
        "hook_name": HOOKS,
        "dataset_path": "",
        "is_dataset_tokenized": False,
        "context_size": CONTEXT,
        "training_tokens": 2048,
        "train_batch_size_tokens": 64,
        "store_batch_size_prompts": 4,
        "n_batches_in_buffer": 8,
        "lr": 1e-3,
        "lr_warm_up_steps": 2,
        "lr_decay_steps": 4,
        "exclude_special_tokens": True,
        "checkpoint_path": str(folder / "checkpoints"),
        "output_path": str(folder / "output"),
        "logger": LoggingConfig(log_to_wandb=False),
        "verbose": False,
    }
    return LanguageModelSAERunnerConfig(**(settings | changes))


def numbered_rows(n=600, length=12):
    """Rows of text, none like another."""
    texts = [" ".join(f"{row}_{i}" for i in range(length)) for row in range(n)]
    return Dataset.from_dict({"text": texts})


def tokenised_rows(n=800, length=CONTEXT):
    """Rows of tokens, none like another."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(5, 4000, (n, length), generator=generator)
    return Dataset.from_dict({"input_ids": rows.tolist()})


def contexts(batches):
    return {tuple(row) for batch in batches for row in batch.tolist()}


def remember_contexts(model):
    """The contexts that the model is run on from here, as they come."""
    seen, run = set(), model.run_with_cache

    def remembering(tokens, *args, **kwargs):
        if tokens.shape[1] == CONTEXT:
            seen.update(contexts([tokens]))
        return run(tokens, *args, **kwargs)

    model.run_with_cache = remembering
    return seen
