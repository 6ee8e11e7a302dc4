"""How a model reads text: settings that training makes and evaluation has to make again."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sae_lens_poly.errors import InputError

if TYPE_CHECKING:
    import torch
    from sae_lens.config import LanguageModelSAERunnerConfig
    from sae_lens.saes.sae import SAEMetadata
    from sae_lens.training.activations_store import ActivationsStore
    from transformers import PreTrainedTokenizerBase

    from sae_lens_poly.models.stacked_hooks import StackedHooks
    from sae_lens_poly.training.rows import Rows


@dataclass(frozen=True)
class TextReading:
    """How text becomes contexts, and contexts the activations that a dictionary is trained on.

    The fields are those of SAELens' runner config, and have their names in the metadata of a saved
    dictionary. The defaults are for dictionaries that do not say.

    Args:
        context_size: Tokens of a context.
        prepend_bos: Whether a context starts with BOS.
        sequence_separator_token: What stands between documents of one context.
        disable_concat_sequences: Whether a context holds one document, and shorter ones are left
            out.
        use_chat_formatting: Whether rows are conversations, for the tokenizer's chat template.
        seqpos_slice: Start, end and step of the positions that count.
        exclude_special_tokens: Whether special tokens are left out; or which tokens are.
        model_kwargs: Arguments of each run of the model.
        autocast_lm: Whether the model runs in mixed precision.
        model_dtype: Of the model's weights.
        text_column: The column of the data set that was read; None: the first that SAELens knows.
    """

    context_size: int = 128
    prepend_bos: bool = True
    sequence_separator_token: int | str | None = "bos"
    disable_concat_sequences: bool = False
    use_chat_formatting: bool = False
    seqpos_slice: tuple[int | None, ...] = (None,)
    exclude_special_tokens: bool | Sequence[int] = True
    model_kwargs: dict[str, Any] = field(default_factory=dict)
    autocast_lm: bool = False
    model_dtype: str | None = field(default=None, compare=False)
    text_column: str | None = field(default=None, compare=False)

    @classmethod
    def of_run(cls, cfg: LanguageModelSAERunnerConfig[Any], **known: Any) -> TextReading:
        """That of a run; ``known`` are fields that its config does not have."""
        of_cfg = {name: getattr(cfg, name) for name in TEXT_FIELDS if hasattr(cfg, name)}
        return cls(**{**of_cfg, **known})

    @classmethod
    def of_metadata(cls, metadata: SAEMetadata) -> TextReading:
        """That of a dictionary, as far as it says."""
        said = {name: metadata[name] for name in TEXT_FIELDS if metadata[name] is not None}
        if "sequence_separator_token" in metadata:  # None is a value of its own there
            said["sequence_separator_token"] = metadata.sequence_separator_token
        if "seqpos_slice" in said:
            said["seqpos_slice"] = tuple(said["seqpos_slice"])
        return cls(**said)

    def write_to(self, metadata: SAEMetadata) -> None:
        """Enter all fields into the metadata of a dictionary."""
        for name in TEXT_FIELDS:
            metadata[name] = getattr(self, name)

    def plain(self) -> dict[str, Any]:
        """All fields as JSON has them."""
        fields = dataclasses.asdict(self)
        lists = {name: list(v) for name, v in fields.items() if isinstance(v, tuple)}
        return fields | lists

    @property
    def positions(self) -> slice:
        """The positions of a context that count."""
        return slice(*self.seqpos_slice)

    def excluded(self, tokenizer: PreTrainedTokenizerBase) -> list[int]:
        """Ids of the tokens that do not count."""
        from sae_lens.util import get_special_token_ids

        if isinstance(self.exclude_special_tokens, bool):
            return get_special_token_ids(tokenizer) if self.exclude_special_tokens else []
        return list(self.exclude_special_tokens)

    def store(self, model: StackedHooks, rows: Rows, batch_size: int) -> ActivationsStore:
        """SAELens' store of a text, for its tokens.

        Args:
            model: The model with its hook points stacked.
            rows: The text.
            batch_size: Contexts in a batch.

        Raises:
            StopIteration: If there is no row.
        """
        import torch
        from sae_lens.training.activations_store import ActivationsStore

        return ActivationsStore(
            model=model,
            dataset=rows,
            streaming=True,
            hook_name=model.hook_name,
            hook_head_index=None,
            context_size=self.context_size,
            d_in=model.d_in,
            n_batches_in_buffer=1,
            total_training_tokens=1,
            store_batch_size_prompts=batch_size,
            train_batch_size_tokens=1,
            prepend_bos=self.prepend_bos,
            normalize_activations="none",
            device=torch.device("cpu"),
            dtype="float32",
            model_kwargs=self.model_kwargs,
            autocast_lm=self.autocast_lm,
            seqpos_slice=self.seqpos_slice,
            disable_concat_sequences=self.disable_concat_sequences,
            sequence_separator_token=self.sequence_separator_token,
            use_chat_formatting=self.use_chat_formatting,
        )

    def of_model(self, model: StackedHooks) -> StackedHooks:
        """The model as it reads in training.

        Raises:
            InputError: If its weights are of another dtype, or it cannot read so many tokens.
        """
        if self.model_dtype not in (None, model.dtype_name):
            raise InputError(
                f"model: its weights are {model.dtype_name}, and training read with "
                f"{self.model_dtype}: load it with dtype={self.model_dtype!r}, or let it be loaded "
                "by name"
            )
        model.check_context_size(self.context_size)
        return model.with_run(self.model_kwargs, self.autocast_lm)


#: Their names.
TEXT_FIELDS = tuple(each.name for each in dataclasses.fields(TextReading))


def complete_metadata(metadata: SAEMetadata, of_run: Mapping[str, Any]) -> None:
    """Enter what SAELens' own runner writes into its config only.

    Args:
        metadata: Of a dictionary.
        of_run: The config of the run that trained it, as saved.

    Raises:
        InputError: If the config has a field of another type.
    """
    kinds = {"use_chat_formatting": bool, "autocast_lm": bool, "model_kwargs": dict}
    for name, kind in kinds.items():
        if name in of_run and metadata[name] is None:
            if not isinstance(of_run[name], kind):
                raise InputError(
                    f"the config of the run has {name}={of_run[name]!r}, and it has to be a "
                    f"{kind.__name__}: save or download the dictionary again"
                )
            metadata[name] = of_run[name]


def counted(tokens: torch.Tensor, excluded: Sequence[int], positions: slice) -> torch.Tensor:
    """True where a token counts: at one of the positions, and none of the excluded ones.

    Args:
        tokens: Shape (batch, pos).
        excluded: Ids.
        positions: Of a context.
    """
    import torch

    at = torch.zeros_like(tokens, dtype=torch.bool)
    at[:, positions] = True
    return at & ~torch.isin(tokens, torch.tensor(excluded, dtype=torch.long, device=tokens.device))
