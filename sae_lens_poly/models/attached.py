"""A crosscoder in a running model: splicing, steering and ablating latents."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from transformer_lens.hook_points import HookedRootModule

from sae_lens_poly.architectures.crosscoders.crosscoder import Crosscoder
from sae_lens_poly.architectures.crosscoders.skips import decode_from
from sae_lens_poly.errors import InputError
from sae_lens_poly.models.stacked_hooks import HookFunction, StackedHooks, replace_activation


@dataclass(frozen=True)
class LatentEdit:
    """A change of one latent's activation, at all positions; see :func:`add` and :func:`clamp`."""

    latent: int
    value: float
    kind: Literal["add", "clamp"]
    at: tuple[str, ...] | None
    """Names of the hook points whose reconstruction sees the change; None: all."""

    def apply(self, feature_acts: torch.Tensor) -> torch.Tensor:
        """Codes (..., d_sae) with the change."""
        changed = feature_acts.clone()
        if self.kind == "add":
            changed[..., self.latent] += self.value
        else:
            changed[..., self.latent] = self.value
        return changed


def add(latent: int, amount: float, at: Sequence[str] | None = None) -> LatentEdit:
    """Raise a latent by ``amount``, at the hook points named ``at`` (None: all)."""
    return LatentEdit(latent, amount, "add", None if at is None else tuple(at))


def clamp(latent: int, value: float, at: Sequence[str] | None = None) -> LatentEdit:
    """Set a latent to ``value``; 0 ablates it. At the hook points named ``at`` (None: all)."""
    return LatentEdit(latent, value, "clamp", None if at is None else tuple(at))


class AttachedCrosscoder:
    """A model that runs with a crosscoder's reconstructions in place of its activations.

    Call it, or use :meth:`run_with_cache`, :meth:`run_with_hooks` and (with causal codes)
    :meth:`generate`, as the model's own. The model itself is left as it is. All but ``generate``
    take ``where``, true at positions (batch, pos) that are replaced: special tokens such as BOS,
    which a dictionary was not trained on, can be left alone.

    Args:
        model: A ``HookedTransformer``, or SAELens' ``HookedProxyLM``.
        crosscoder: An inference crosscoder over hook points of this model.
        at: Names of the hook points to replace; None: all that the crosscoder writes.
        codes: ``clean``: codes are computed from all hook points of a run of the model alone, which
            comes first. What is written at an early hook point then depends on later ones.
            ``causal``: codes are computed as the run goes, for each hook point from those that it
            has reached (as they are in this run, with what was replaced before them); the others
            are hidden from the encoder, which a crosscoder that was trained with layer masking
            is used to.
        error_term: Whether what the crosscoder does not reconstruct is added, so that without
            edits the model computes what it always does.
        edits: Changes of latents, applied in turn. With clean codes, what a change at one hook
            point does to the next is overwritten there if that is replaced as well: name hook
            points in ``at``, or take causal codes.
        hook_names: Hook points of the crosscoder, in order; None: as its metadata say.

    Raises:
        InputError: If a hook point is missing from the model or the crosscoder, or a latent does
            not exist.
    """

    def __init__(
        self,
        model: HookedRootModule,
        crosscoder: Crosscoder,
        at: Sequence[str] | None = None,
        codes: Literal["clean", "causal"] = "clean",
        error_term: bool = False,
        edits: Sequence[LatentEdit] = (),
        hook_names: Sequence[str] | None = None,
    ) -> None:
        if codes not in ("clean", "causal"):
            raise InputError(f"codes={codes!r} is unknown: choose 'clean' or 'causal'")
        names = list(hook_names or crosscoder.cfg.metadata.hook_names or [])
        if len(names) != crosscoder.n_hooks:
            raise InputError(
                f"the crosscoder has {crosscoder.n_hooks} hook points and {len(names)} are named: "
                "give hook_names"
            )
        own = crosscoder.cfg.metadata.hook_names
        if own is not None and names != own and set(own) <= model.hook_dict.keys():
            raise InputError(
                f"hook_names={names}: the crosscoder was trained at {own}, which the model has: "
                "leave hook_names out"
            )
        self.stack = StackedHooks(model, names)  # raises where the model lacks one of them
        if self.stack.d_model != crosscoder.d_model:
            raise InputError(
                f"hook points of the model are {self.stack.d_model} wide, and those of the "
                f"crosscoder {crosscoder.d_model}: it belongs to another model"
            )
        self.model, self.crosscoder, self.names = self.stack.model, crosscoder, names
        self.codes, self.error_term, self.edits = codes, error_term, tuple(edits)
        written = [names[hook] for hook in crosscoder.written_hooks]
        self.at = [
            names.index(name) for name in self._known(written if at is None else at, written)
        ]
        for edit in self.edits:
            if not 0 <= edit.latent < crosscoder.cfg.d_sae:
                raise InputError(
                    f"latent {edit.latent} does not exist: the crosscoder has "
                    f"{crosscoder.cfg.d_sae}, counted from 0"
                )
            self._known(edit.at or [], [names[hook] for hook in self.at])

    @staticmethod
    def _known(asked: Sequence[str], known: Sequence[str]) -> list[str]:
        for name in asked:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(known)}"
                raise InputError(f"at: the crosscoder replaces no hook point {name!r} here; {hint}")
        return list(asked)

    def with_edits(self, *edits: LatentEdit) -> AttachedCrosscoder:
        """The same with other edits."""
        at = [self.names[hook] for hook in self.at]
        return AttachedCrosscoder(
            self.model, self.crosscoder, at, self.codes, self.error_term, edits, self.names
        )

    def __call__(
        self, tokens: Any, *args: Any, where: torch.Tensor | None = None, **kwargs: Any
    ) -> Any:
        """The model's forward pass with reconstructions in place."""
        with self._hooks(tokens, kwargs, where=where) as hooks:
            return self._run(tokens, args, hooks, kwargs)

    def run_with_hooks(
        self,
        tokens: Any,
        *args: Any,
        fwd_hooks: Sequence[tuple[str, HookFunction]] = (),
        where: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """The same with further functions on hook points; clean codes see them too."""
        with self._hooks(tokens, kwargs, fwd_hooks, where) as hooks:
            return self._run(tokens, args, [*fwd_hooks, *hooks], kwargs)

    def _run(self, tokens: Any, args: Any, hooks: Any, kwargs: dict[str, Any]) -> Any:
        with self.stack.running():
            return self.model.run_with_hooks(
                tokens, *args, fwd_hooks=hooks, **self.stack.run_kwargs | kwargs
            )

    def run_with_cache(
        self, tokens: Any, *args: Any, where: torch.Tensor | None = None, **kwargs: Any
    ) -> Any:
        """The same with a cache; at replaced hook points it holds what replaced them."""
        with (
            self._hooks(tokens, kwargs, where=where) as hooks,
            self.model.hooks(fwd_hooks=hooks),
            self.stack.running(),
        ):
            return self.model.run_with_cache(tokens, *args, **self.stack.run_kwargs | kwargs)

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """The model's ``generate``; see :meth:`HuggingFaceModel.generate` for what that one takes.

        Raises:
            InputError: With clean codes, which need a run of the model alone for every token.
        """
        if self.codes == "clean":
            raise InputError("codes='clean' cannot generate: attach with codes='causal'")
        with (
            self._hooks(None, {}) as hooks,
            self.model.hooks(fwd_hooks=hooks),
            self.stack.running(),
        ):
            return self.model.generate(*args, **kwargs)

    @contextmanager
    def _hooks(
        self,
        tokens: Any,
        kwargs: dict[str, Any],
        others: Sequence[tuple[str, HookFunction]] = (),
        where: torch.Tensor | None = None,
    ) -> Iterator[list[tuple[str, HookFunction]]]:
        """The functions that replace activations in a run on ``tokens`` with these arguments."""
        if where is not None and torch.is_tensor(tokens) and where.shape != tokens.shape:
            raise InputError(
                f"where has shape {tuple(where.shape)} and the tokens {tuple(tokens.shape)}: give "
                "one truth value for each token"
            )
        if self.codes == "causal":
            run = _CausalRun(self, where)
            yield [(name, run.at_hook(number)) for number, name in enumerate(self.names)]
            return
        if kwargs.get("past_kv_cache") is not None:
            raise InputError("codes='clean' cannot continue a past_kv_cache: take codes='causal'")
        with self.model.hooks(fwd_hooks=list(others)):
            x = self.stack.gather(tokens, **kwargs)
        replaced = self.replacements(x)
        yield [
            (self.names[hook], partial(replace_activation, replaced[hook], where=where))
            for hook in self.at
        ]

    @torch.no_grad()
    def replacements(self, x: torch.Tensor) -> dict[int, torch.Tensor]:
        """The new value of each replaced hook point, by its number, each (..., d_model).

        Args:
            x: Clean activations (..., n_hooks * d_model).
        """
        x = x.to(self.crosscoder.device, self.crosscoder.dtype)
        z = self.crosscoder.encode(x)
        per_hook, decoded = self.crosscoder.per_hook(x), _Decoded(self.crosscoder, z, x)
        return {hook: self._at(hook, per_hook[..., hook, :], decoded) for hook in self.at}

    def _at(self, hook: int, x: torch.Tensor, decoded: _Decoded) -> torch.Tensor:
        """The reconstruction of one hook point, with edits, and the error if wanted."""
        edits = tuple(e for e in self.edits if e.at is None or self.names[hook] in e.at)
        x_hat = decoded.at(hook, edits)
        return x_hat + (x - decoded.at(hook)) if self.error_term else x_hat


class _Decoded:
    """Reconstructions of one batch of codes, each set of edits decoded once for all hook points."""

    def __init__(self, crosscoder: Crosscoder, z: torch.Tensor, x: torch.Tensor) -> None:
        self.crosscoder, self.z, self.x = crosscoder, z, x
        self.by_edits: dict[tuple[LatentEdit, ...], torch.Tensor] = {}

    def at(self, hook: int, edits: tuple[LatentEdit, ...] = ()) -> torch.Tensor:
        """The reconstruction of one hook point, (..., d_model)."""
        if edits not in self.by_edits:
            z = self.z
            for edit in edits:
                z = edit.apply(z)
            decoded = decode_from(self.crosscoder, z, self.x)
            self.by_edits[edits] = self.crosscoder.per_hook(decoded)
        return self.by_edits[edits][..., hook, :]


class _CausalRun:
    """Collects activations of a run as it goes, and gives what replaces them."""

    def __init__(self, attached: AttachedCrosscoder, where: torch.Tensor | None) -> None:
        self.attached, self.where = attached, where
        self.seen: list[bool] = [False] * len(attached.names)
        self.x: torch.Tensor | None = None

    def at_hook(self, number: int) -> HookFunction:
        """The function for the hook point of this number."""

        @torch.no_grad()
        def fn(activation: torch.Tensor, hook: Any) -> torch.Tensor | None:
            crosscoder = self.attached.crosscoder
            if self.x is None or self.seen[number]:  # the model starts another pass
                self.x = activation.new_zeros(*activation.shape[:-1], crosscoder.cfg.d_in)
                self.seen = [False] * len(self.seen)
            self.seen[number] = True
            crosscoder.per_hook(self.x)[..., number, :] = activation
            if number not in self.attached.at:
                return None
            seen = torch.tensor(self.seen, dtype=crosscoder.dtype, device=crosscoder.device)
            # The model may run in mixed precision; the dictionary does not.
            with torch.autocast(activation.device.type, enabled=False):
                x = self.x.to(crosscoder.device, crosscoder.dtype)
                z = crosscoder.encode(x, seen)
                decoded = _Decoded(crosscoder, z, x)
                new = self.attached._at(number, activation.to(z), decoded)
            return replace_activation(new, activation, hook, self.where)

        return fn
