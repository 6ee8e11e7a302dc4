"""Running a text through a model and its dictionary, with latents changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from sae_lens.saes.sae import SAE
from sae_lens.util import get_special_token_ids

from sae_lens_poly.errors import InputError
from sae_lens_poly.explorer.data_files import TokenTexts, plain
from sae_lens_poly.models.attached import LatentEdit
from sae_lens_poly.models.stacked_hooks import StackedHooks

N_NEXT = 10
#: The longest text that is run, in tokens.
N_TOKENS = 512


class TriedTexts:
    """Runs texts through a model, its dictionary's latents as they are or changed.

    What the dictionary does not reconstruct stays: without a change the model computes what it
    always does. Codes are those of the clean run, as ``AttachedCrosscoder`` has them with
    ``codes="clean"``; here any dictionary serves, and any stack, of several models too.

    Args:
        sae: The dictionary.
        model: Its model.
    """

    def __init__(self, sae: SAE[Any], model: StackedHooks) -> None:
        self.sae, self.model = sae, model
        self.texts = TokenTexts(model.tokenizer)
        self.written = list(getattr(sae, "written_hooks", range(model.n_hooks)))

    @torch.no_grad()
    def run(
        self, text: str, edits: Sequence[LatentEdit] = (), hook: int | None = None
    ) -> dict[str, Any]:
        """Run a text.

        Args:
            text: At least one character.
            edits: Changes of latents at every token that is not special.
            hook: Number of the hook point that is changed; None: all that are written.

        Returns:
            Tokens, the latents of each, and what may come next after each, before and after.

        Raises:
            InputError: If the text is empty or too long, or an edit names what does not exist.
        """
        self._check(text, edits, hook)
        tokens = self._tokens(text)
        special = torch.isin(
            tokens, torch.tensor(get_special_token_ids(self.model.tokenizer)).to(tokens)
        )
        clean, x = self._clean(tokens)
        z = self.sae.encode(x).to_dense()
        edited = clean
        if edits:
            changed = z
            for edit in edits:
                changed = edit.apply(changed)
            difference = self.sae.decode(changed) - self.sae.decode(z)
            stack = x + torch.where(special[..., None].to(x.device), 0, difference)
            at = self.written if hook is None else [hook]
            edited = self._log_probs(self.model.splice(tokens, stack, at=at, return_type="logits"))
        z = torch.where(special[..., None].to(z.device), 0, z)
        divergence = (clean.exp() * (clean - edited)).sum(dim=-1)[0]
        return {
            "tokens": [self.texts[token] for token in tokens[0].tolist()],
            "special": special[0].tolist(),
            "codes": [self._codes(row) for row in z[0]],
            "next": [self._next(*rows) for rows in zip(clean[0], edited[0], strict=True)],
            "divergence": plain(divergence.clamp_min(0)),
        }

    def _check(self, text: str, edits: Sequence[LatentEdit], hook: int | None) -> None:
        if not text:
            raise InputError("text is empty: type something")
        if hook is not None and hook not in self.written:
            raise InputError(f"hook={hook} is not written: choose from {self.written}")
        for edit in edits:
            if not 0 <= edit.latent < self.sae.cfg.d_sae:
                raise InputError(
                    f"latent {edit.latent} does not exist: there are {self.sae.cfg.d_sae}, counted "
                    "from 0"
                )

    def _tokens(self, text: str) -> torch.Tensor:
        # Not to_tokens, which SAELens' wrapper of Hugging Face models has for whole texts only.
        tokenizer = self.model.tokenizer
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        if self.sae.cfg.metadata.prepend_bos and tokenizer.bos_token_id is not None:
            ids = [tokenizer.bos_token_id, *ids]
        tokens = torch.tensor([ids], device=next(self.model.parameters()).device)
        longest = min(N_TOKENS, self.model.n_ctx or N_TOKENS)
        if tokens.shape[1] > longest:
            raise InputError(
                f"text has {tokens.shape[1]} tokens, and {longest} can be run: shorten it"
            )
        return tokens

    def _clean(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        name = self.model.hook_name
        logits, cache = self.model.run_with_cache(tokens, names_filter=[name], return_type="logits")
        return self._log_probs(logits), cache[name].to(self.sae.device, self.sae.dtype)

    @staticmethod
    def _log_probs(logits: torch.Tensor) -> torch.Tensor:
        return logits.float().log_softmax(dim=-1).cpu()

    @staticmethod
    def _codes(z: torch.Tensor) -> list[list[Any]]:
        values, latents = z.sort(descending=True)
        n = int((values > 0).sum())
        return [list(pair) for pair in zip(latents[:n].tolist(), plain(values[:n]), strict=True)]

    def _next(self, before: torch.Tensor, after: torch.Tensor) -> list[list[Any]]:
        tokens = torch.maximum(before, after).topk(min(N_NEXT, len(before))).indices
        rows = zip(tokens.tolist(), before[tokens].exp(), after[tokens].exp(), strict=True)
        return [[self.texts[token], plain(p.item()), plain(q.item())] for token, p, q in rows]
