"""Several models as one virtual hook point."""

import copy

import pytest
import torch
from sae_lens import LanguageModelSAERunnerConfig
from sae_lens.config import LoggingConfig

from sae_lens_poly import (
    InputError,
    TrainingCrosscoderConfig,
    TrainingRunner,
    load_stacked_model,
)
from sae_lens_poly.evaluation.saved import evaluate_saved
from sae_lens_poly.evaluation.settings import EvaluationSettings
from sae_lens_poly.models.stacked_models import StackedModels

HOOKS = "blocks.{2,4}.hook_resid_post"
NAMES = ["blocks.2.hook_resid_post", "blocks.4.hook_resid_post"]


@pytest.fixture(scope="module")
def other(embedded_model):
    other = copy.deepcopy(embedded_model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.05 * parameter.std(correction=0) * torch.randn_like(parameter))
    return other


@pytest.fixture(scope="module")
def stack(embedded_model, other):
    return StackedModels([embedded_model, other], HOOKS, ["base", "other"])


@pytest.fixture(scope="module")
def tokens(embedded_model):
    return embedded_model.to_tokens("import os\n\ndef f(x):\n    return x\n")


def test_hook_points_of_all_models_lie_end_to_end(stack, embedded_model, other, tokens):
    assert stack.hook_names == [f"{m}/{h}" for m in ("base", "other") for h in NAMES]
    assert (stack.n_hooks, stack.d_in) == (4, 4 * 128)
    parts = stack.gather(tokens).split(128, dim=-1)
    for number, model in enumerate((embedded_model, other)):
        _, cache = model.run_with_cache(tokens)
        for hook, name in enumerate(NAMES):
            torch.testing.assert_close(parts[2 * number + hook], cache[name])


def test_a_splice_at_one_hook_point_concerns_its_model_alone(stack, embedded_model, other, tokens):
    x = stack.gather(tokens)
    zero = torch.zeros_like(x)
    options = {"return_type": "loss", "loss_per_token": True}
    clean = [model(tokens, **options) for model in (embedded_model, other)]
    torch.testing.assert_close(stack(tokens, **options), sum(clean) / 2)
    torch.testing.assert_close(stack.splice(tokens, x, **options), sum(clean) / 2)
    spliced = stack.splice(tokens, zero, at=[3], **options)
    alone = other.run_with_hooks(
        tokens, fwd_hooks=[(NAMES[1], lambda a, hook: torch.zeros_like(a))], **options
    )
    torch.testing.assert_close(spliced, (clean[0] + alone) / 2)
    through_hooks = stack.run_with_hooks(
        tokens, fwd_hooks=[(HOOKS, lambda a, hook: torch.zeros_like(a))], **options
    )
    torch.testing.assert_close(through_hooks, stack.splice(tokens, zero, **options))
    padded = {"attention_mask": torch.ones_like(tokens).index_fill(1, torch.tensor([0, 1]), 0)}
    same = stack.run_with_hooks(tokens, fwd_hooks=[(HOOKS, lambda a, hook: a)], **padded)
    torch.testing.assert_close(same[:, 2:], stack(tokens, **padded)[:, 2:], rtol=1e-3, atol=1e-3)
    (logits, _), cache = stack.run_with_cache(tokens, names_filter=[HOOKS], return_type="both")
    assert logits.shape == (*tokens.shape, embedded_model.cfg.d_vocab)
    assert torch.equal(cache[HOOKS], x)


def test_runner_and_evaluation_take_a_stack_of_models(stack, tmp_path, drawn):
    cfg = LanguageModelSAERunnerConfig(
        sae=TrainingCrosscoderConfig(d_in=stack.d_in, n_hooks=4, d_sae=64, k=8),
        model_name="base,other",
        hook_name=HOOKS,
        dataset_path="stdlib",
        is_dataset_tokenized=False,
        training_tokens=1024,
        train_batch_size_tokens=256,
        context_size=64,
        store_batch_size_prompts=4,
        n_batches_in_buffer=8,
        device="cpu",
        logger=LoggingConfig(log_to_wandb=False),
        checkpoint_path=None,
        output_path=str(tmp_path),
        verbose=False,
    )
    TrainingRunner(cfg, override_model=stack).run()
    evaluation = evaluate_saved(
        tmp_path, EvaluationSettings(n_batches=1, batch_size_prompts=2), model=stack
    )
    assert list(evaluation.per_hook) == stack.hook_names
    labels = [label.get_text() for label in drawn[-1].axes[2].get_xticklabels()]
    assert labels == [
        f"{model} {layer} resid_post" for model in ("base", "other") for layer in "24"
    ]


def test_names_load_several_models(embedded_model, tokens):
    stack = load_stacked_model("stdlib-6l, stdlib-6l", NAMES[0])
    _, cache = embedded_model.run_with_cache(tokens, names_filter=NAMES[0])
    torch.testing.assert_close(stack.gather(tokens), torch.cat([cache[NAMES[0]]] * 2, dim=-1))


def test_wrong_models_are_refused(embedded_model, other):
    with pytest.raises(InputError, match="two or more"):
        StackedModels([embedded_model], HOOKS)
    with pytest.raises(InputError, match="different names"):
        StackedModels([embedded_model, other], HOOKS, ["a", "a"])
    foreign = copy.copy(other)

    class Tokenizer:
        bos_token_id = eos_token_id = 0

        def get_vocab(self):
            return {"a": 0}

    foreign.tokenizer = Tokenizer()
    with pytest.raises(InputError, match="different tokenizers"):
        StackedModels([embedded_model, foreign], HOOKS)
    stack = StackedModels([embedded_model, other], HOOKS)
    with pytest.raises(InputError, match="exists once in each"):
        stack.run_with_cache(torch.zeros(1, 2).long(), names_filter=[NAMES[0]])
