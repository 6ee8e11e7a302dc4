"""Model-diff amplification: what training changed, made more frequent (Aranguri & McGrath 2025).

``logits = after + alpha (after - before)``, token by token, both models on the same growing text.
An alpha of 0 is the model after training, -1 the one before; from 0.3 to 20 it brings out what
training made a little more probable.
"""

from __future__ import annotations

from typing import Any

import torch
from transformer_lens import HookedTransformer
from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache
from transformer_lens.utilities.logits_utils import sample_logits
from transformers import LogitsProcessor, PreTrainedModel, PreTrainedTokenizerBase

from sae_lens_poly.constraints import Number, check_value
from sae_lens_poly.errors import InputError
from sae_lens_poly.models.stacked_models import check_tokenizers


def amplify(before: torch.Tensor, after: torch.Tensor, alpha: float) -> torch.Tensor:
    """``after + alpha (after - before)`` of logits, exact at 0 and -1.

    What is ruled out after training (a logit of minus infinity) stays ruled out.
    """
    if alpha == 0:
        return after
    if alpha == -1:
        return before.masked_fill(after == -torch.inf, -torch.inf)
    return (after + alpha * (after - before)).masked_fill(after == -torch.inf, -torch.inf)


class AmplifiedDifference(LogitsProcessor):
    """Makes ``after.generate`` sample what training changed, for Hugging Face models.

    ``after.generate(**inputs, logits_processor=[processor], do_sample=True)``; temperature, top-k
    and top-p, stopping criteria and beams work as always. Processors that transformers runs before
    given ones, such as ``repetition_penalty``, act on the logits after training alone. The model
    before training keeps a cache of the text so far; where the text is another (the next call of
    ``generate``, or beams that change places) it is read from its start.

    Args:
        before: The model before training.
        alpha: How far to go on from the model after training.
        tokenizers: Of the models before and after training.
        attention_mask: Of the prompts, (batch, pos), where shorter ones are padded on the left;
            None: there is no padding.

    Raises:
        InputError: If ``alpha`` is no finite number, or the tokenizers differ.
    """

    def __init__(
        self,
        before: PreTrainedModel,
        alpha: float,
        tokenizers: tuple[PreTrainedTokenizerBase, PreTrainedTokenizerBase],
        attention_mask: torch.Tensor | None = None,
    ) -> None:
        check_value("alpha", alpha, Number())
        check_tokenizers(tokenizers, ["before", "after"])
        self.before, self.alpha, self.attention_mask = before, alpha, attention_mask
        self._read: torch.Tensor | None = None
        self._cache: Any = None

    @torch.no_grad()
    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.Tensor:
        """Logits (batch, d_vocab) for the token after ``input_ids`` (batch, pos)."""
        if self.alpha == 0:
            return scores
        before = self._logits_before(input_ids.to(self.before.device)).to(scores)
        _check_vocabularies(before, scores)
        return amplify(before, scores, self.alpha)

    def _logits_before(self, input_ids: torch.Tensor) -> torch.Tensor:
        read = self._read
        goes_on = (
            read is not None
            and self._cache is not None
            and read.shape[1] < input_ids.shape[1]
            and torch.equal(read, input_ids[:, : read.shape[1]])
        )
        n_read = read.shape[1] if goes_on and read is not None else 0
        inputs: dict[str, Any] = {"past_key_values": self._cache if goes_on else None}
        if self.attention_mask is not None:
            mask = _extended(self.attention_mask.to(input_ids), input_ids)
            positions = (mask.cumsum(dim=-1) - 1).clamp_min(0)
            inputs |= {"attention_mask": mask, "position_ids": positions[:, n_read:]}
        output = self.before(input_ids[:, n_read:], use_cache=True, **inputs)
        self._read, self._cache = input_ids, getattr(output, "past_key_values", None)
        return output.logits[:, -1].float()


def _extended(mask: torch.Tensor, input_ids: torch.Tensor) -> torch.Tensor:
    """The mask of prompts with ones for what was generated; with beams, several rows a prompt."""
    mask = mask.repeat_interleave(len(input_ids) // len(mask), dim=0)
    return torch.cat([mask, torch.ones_like(input_ids[:, mask.shape[1] :])], dim=1)


@torch.no_grad()
def generate_amplified(
    before: HookedTransformer,
    after: HookedTransformer,
    tokens: torch.Tensor,
    alpha: float,
    max_new_tokens: int = 50,
    stop_at: int | None = None,
    **sampling: Any,
) -> torch.Tensor:
    """Sample what training changed, for TransformerLens models.

    Args:
        before: The model before training.
        after: The model after it.
        tokens: Prompts of one length, (batch, pos).
        alpha: How far to go on from the model after training.
        max_new_tokens: How many tokens are sampled at most.
        stop_at: A token after which a text is complete; it is repeated until all are.
        sampling: Of TransformerLens' ``sample_logits``: ``temperature``, ``top_k``, ``top_p``,
            ``freq_penalty``. A temperature of 0 takes the most probable token.

    Returns:
        Prompts and what follows, (batch, pos + n_new).

    Raises:
        InputError: If ``alpha`` is no finite number, the tokenizers differ, or the texts do not
            fit the models' contexts.
    """
    check_value("alpha", alpha, Number())
    check_tokenizers([before.tokenizer, after.tokenizer], ["before", "after"])
    longest = min(before.cfg.n_ctx, after.cfg.n_ctx)
    if tokens.shape[1] + max_new_tokens > longest:
        raise InputError(
            f"max_new_tokens={max_new_tokens} after {tokens.shape[1]} tokens is more than the "
            f"models' context of {longest}: lower it"
        )
    models = (before, after)
    caches = [
        TransformerLensKeyValueCache.init_cache(model.cfg, model.cfg.device, len(tokens))
        for model in models
    ]
    done = torch.zeros(len(tokens), dtype=torch.bool, device=tokens.device)
    new = tokens
    for _ in range(max_new_tokens):
        logits = [
            model(new, past_kv_cache=cache)[:, -1].float()
            for model, cache in zip(models, caches, strict=True)
        ]
        _check_vocabularies(*logits)
        amplified = amplify(logits[0].to(tokens.device), logits[1].to(tokens.device), alpha)
        new = sample_logits(amplified, tokens=tokens, **sampling)[:, None].to(tokens)
        if stop_at is not None:
            new = new.masked_fill(done[:, None], stop_at)
            done = done | (new[:, 0] == stop_at)
        tokens = torch.cat([tokens, new], dim=1)
        if done.all():
            break
    return tokens


def _check_vocabularies(before: torch.Tensor, after: torch.Tensor) -> None:
    if before.shape[-1] != after.shape[-1]:
        raise InputError(
            f"the model before training has {before.shape[-1]} logits, and the one after it "
            f"{after.shape[-1]}: take models of one vocabulary size"
        )
