"""SAELens' proxy of a Hugging Face model, with what else of TransformerLens' models is used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from sae_lens.load_model import HookedProxyLM
from transformer_lens.hook_points import HookedRootModule
from transformers import PreTrainedModel

from sae_lens_poly.errors import InputError


class HuggingFaceModel(HookedProxyLM):
    """A :class:`HookedProxyLM` that takes text, returns losses, and generates.

    Methods and arguments are those of ``HookedTransformer`` of the same names.
    """

    model: PreTrainedModel

    @classmethod
    def of(cls, proxy: HookedProxyLM) -> HuggingFaceModel:
        """The same model with the same hook points, which are set up once."""
        if isinstance(proxy, cls):
            return proxy
        found = cls.__new__(cls)
        HookedRootModule.__init__(found)
        found.model, found.tokenizer = proxy.model, proxy.tokenizer
        found.mod_dict, found.hook_dict = proxy.mod_dict, proxy.hook_dict
        found.named_modules_dict = proxy.named_modules_dict
        return found

    @property
    def n_ctx(self) -> int | None:
        """The longest context that the model reads, in tokens; None: its config does not say."""
        return getattr(self.model.config.get_text_config(), "max_position_embeddings", None)

    @property
    def d_vocab(self) -> int:
        """Number of token ids that the model reads."""
        return self.model.get_input_embeddings().weight.shape[0]

    @property
    def W_U(self) -> torch.Tensor:
        """The unembedding, (d_model, d_vocab)."""
        return self.model.get_output_embeddings().weight.T

    def forward(
        self,
        input: str | Sequence[str] | torch.Tensor,
        return_type: Literal["logits", "loss", "both"] | None = "logits",
        loss_per_token: bool = False,
        prepend_bos: bool | None = None,
        stop_at_layer: int | None = None,
        _names_filter: list[str] | None = None,
        **others: Any,
    ) -> Any:
        """Run the model on text, or on tokens (batch, pos).

        Raises:
            InputError: If an argument is given that SAELens' proxy does not heed.
        """
        if given := [name for name, value in others.items() if value is not None]:
            raise InputError(
                f"{given[0]}: a run of a Hugging Face model takes tokens alone (in training, "
                "leave model_kwargs out)"
            )
        tokens = input if torch.is_tensor(input) else self.to_tokens(input, prepend_bos)
        output = super().forward(
            tokens,
            return_type="both" if return_type in ("loss", "both") else "logits",
            loss_per_token=loss_per_token,
            stop_at_layer=stop_at_layer,
            _names_filter=_names_filter,
        )
        if return_type is None:
            return None
        return output.loss if return_type == "loss" else output

    def to_tokens(
        self,
        input: str | Sequence[str],
        prepend_bos: bool | None = None,
        padding_side: Literal["left", "right"] | None = None,
        move_to_device: bool = True,
        truncate: bool = True,
    ) -> torch.Tensor:
        """Text as tokens (batch, pos); shorter texts are padded on the right."""
        if isinstance(input, str) and not (prepend_bos or move_to_device or truncate):
            return super().to_tokens(input, False, padding_side, False, False)
        if padding_side not in (None, "right"):
            raise InputError(
                f"padding_side={padding_side!r}: shorter texts are padded on the right"
            )
        texts = [input] if isinstance(input, str) else list(input)
        bos = self.tokenizer.bos_token_id
        start = [bos] if bos is not None and prepend_bos is not False else []
        rows = [
            torch.tensor([*start, *self._ids(text)][: self.n_ctx if truncate else None])
            for text in texts
        ]
        ends = (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id, 0)
        padding = next(token for token in ends if token is not None)
        tokens = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=padding)
        return tokens.long().to(self.model.device if move_to_device else "cpu")

    def _ids(self, text: str) -> list[int]:
        if not text:
            return []
        return super().to_tokens(text, False, None, False, False)[0].tolist()

    def to_string(self, tokens: Any) -> str | list[str]:
        """Tokens (pos) as text, or tokens (batch, pos) as texts."""
        tokens = torch.as_tensor(tokens)
        if tokens.ndim == 2:
            return self.tokenizer.batch_decode(tokens, clean_up_tokenization_spaces=False)
        return self.tokenizer.decode(tokens, clean_up_tokenization_spaces=False)

    def to_str_tokens(self, input: Any, prepend_bos: bool | None = None) -> list[str]:
        """A text, or tokens (pos) or (1, pos), token by token."""
        tokens = self.to_tokens(input, prepend_bos) if isinstance(input, str) else input
        return self.tokenizer.batch_decode(
            torch.as_tensor(tokens).flatten()[:, None], clean_up_tokenization_spaces=False
        )

    def to_single_token(self, string: str) -> int:
        """The token of a text that is one.

        Raises:
            InputError: If it is none, or several.
        """
        ids = self._ids(string)
        if len(ids) != 1:
            raise InputError(f"{string!r} is {len(ids)} tokens, and has to be one")
        return ids[0]

    @torch.no_grad()
    def generate(
        self,
        input: str | Sequence[str] | torch.Tensor = "",
        max_new_tokens: int = 10,
        stop_at_eos: bool = True,
        do_sample: bool = True,
        prepend_bos: bool | None = None,
        return_type: Literal["input", "str", "tokens"] | None = "input",
        verbose: bool = True,
        **settings: Any,
    ) -> Any:
        """Go on from a text, or from tokens (batch, pos), by the model's ``generate``.

        Args:
            input: From what.
            max_new_tokens: How far at most.
            stop_at_eos: Whether a text may end before that.
            do_sample: Whether tokens are drawn; else each is the likeliest.
            prepend_bos: Whether text starts with BOS; None: if there is one.
            return_type: Text, tokens, or what the input is.
            verbose: Not heeded: there is no progress bar.
            settings: More of Hugging Face's, such as ``temperature`` and ``top_k``.
        """
        tokens = input if torch.is_tensor(input) else self.to_tokens(input, prepend_bos)
        tokens = tokens.to(self.model.device)
        if not stop_at_eos:
            settings["min_new_tokens"] = max_new_tokens
        if self.tokenizer.eos_token_id is not None:
            settings.setdefault("pad_token_id", self.tokenizer.eos_token_id)
        found = self.model.generate(
            tokens,
            attention_mask=torch.ones_like(tokens),
            max_new_tokens=max_new_tokens,
            do_sample=do_sample,
            **settings,
        )
        as_text = return_type == "str" or (return_type == "input" and not torch.is_tensor(input))
        if not as_text:
            return found
        texts = self.tokenizer.batch_decode(found, skip_special_tokens=True)
        return texts[0] if len(texts) == 1 else texts
