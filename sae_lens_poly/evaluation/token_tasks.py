"""Probing tasks on single tokens of Python source, with labels from Python itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sae_lens.util import get_special_token_ids

from sae_lens_poly.embedded.corpus import Module, Split, stdlib_modules
from sae_lens_poly.errors import InputError
from sae_lens_poly.evaluation.pooled_features import check_context_size
from sae_lens_poly.evaluation.probing import (
    NEGATIVE,
    NEITHER,
    POSITIVE,
    Task,
    balanced_task,
    check_sizes,
)
from sae_lens_poly.evaluation.python_labels import LABELS, Mask, character_labels
from sae_lens_poly.models.stacked_hooks import StackedHooks

#: Contexts that are taken from one module at most, so that no long one decides.
CONTEXTS_PER_MODULE = 4


@dataclass(frozen=True, eq=False)
class TokenContexts:
    """Contexts of one split, and the tokens in them that tasks use."""

    tokens: torch.Tensor
    """Shape (n_contexts, context_size), each with BOS first where the tokenizer has one."""
    rows: NDArray[np.int64]
    """Sampled tokens, (n_rows,), ascending: ``number of context * context_size + position``."""
    modules: tuple[str, ...]
    """Dotted name of the module of each context."""


@dataclass(frozen=True, eq=False)
class TokenTasks:
    """Tasks on tokens. Rows of the tasks are rows of the features of the sampled tokens."""

    train: TokenContexts
    test: TokenContexts
    tasks: list[Task]


def token_tasks(
    model: StackedHooks,
    n_train_contexts: int = 400,
    n_test_contexts: int = 200,
    context_size: int = 128,
    n_train: int = 2000,
    n_test: int = 1000,
    seed: int = 0,
) -> TokenTasks:
    """Draw one task for each of :data:`~sae_lens_poly.evaluation.python_labels.LABELS`.

    Contexts to train on come from modules of the train split, contexts to test on from held-out
    modules, which the embedded model was not trained on. Files that do not parse, and modules
    shorter than a context, are left out. A token is positive where all of its characters but white
    space have the label, negative where none has; BOS, tokens of white space alone and tokens that
    are partly labelled are never drawn.

    Args:
        model: The model with its hook points stacked; its tokenizer must be a fast one.
        n_train_contexts: Contexts to train on, at most ``CONTEXTS_PER_MODULE`` of a module; fewer
            where there are fewer modules.
        n_test_contexts: Contexts to test on.
        context_size: Tokens of a context, BOS included.
        n_train: Training tokens of a task at most, positives and negatives together.
        n_test: Test tokens of a task at most.
        seed: Of what is drawn.

    Raises:
        InputError: If the tokenizer gives no offsets, an argument is out of range, or there is no
            task with enough tokens.
    """
    check_context_size(model, context_size)
    check_sizes(n_train, n_test)
    for field, n in (("n_train_contexts", n_train_contexts), ("n_test_contexts", n_test_contexts)):
        if n < 1:
            raise InputError(f"{field}={n} must be 1 or more")
    train_tokens, train_values, train_modules = _draw_contexts(
        model, "train", n_train_contexts, context_size, np.random.default_rng((seed, 0))
    )
    test_tokens, test_values, test_modules = _draw_contexts(
        model, "held_out", n_test_contexts, context_size, np.random.default_rng((seed, 1))
    )
    possible = (
        balanced_task(
            label,
            train_values[label],
            test_values[label],
            n_train,
            n_test,
            np.random.default_rng((seed, 2, number)),
        )
        for number, label in enumerate(LABELS)
    )
    tasks = [task for task in possible if task is not None]
    if not tasks:
        raise InputError(
            f"n_train_contexts={n_train_contexts}, n_test_contexts={n_test_contexts}: no label has "
            "enough tokens in so few contexts; ask for more"
        )
    train_rows = np.unique(np.concatenate([task.train for task in tasks]))
    test_rows = np.unique(np.concatenate([task.test for task in tasks]))
    return TokenTasks(
        TokenContexts(train_tokens, train_rows, tuple(train_modules)),
        TokenContexts(test_tokens, test_rows, tuple(test_modules)),
        [
            Task(
                task.name,
                np.searchsorted(train_rows, task.train),
                task.train_positive,
                np.searchsorted(test_rows, task.test),
                task.test_positive,
            )
            for task in tasks
        ],
    )


def token_values(labels: dict[str, Mask], source: str, offsets: Any) -> dict[str, NDArray[np.int8]]:
    """Labels of tokens from those of characters.

    Args:
        labels: As :func:`character_labels` gives them for ``source``.
        source: The text.
        offsets: First character of each token, and the one after its last, (n_tokens, 2).

    Returns:
        Label to ``POSITIVE`` where all characters of a token but white space have it, ``NEGATIVE``
        where none has, ``NEITHER`` where some have and for tokens of white space, (n_tokens,).
    """
    start, end = np.asarray(offsets, dtype=np.int64).reshape(-1, 2).T
    counted = np.fromiter((not c.isspace() for c in source), dtype=np.bool_, count=len(source))

    def per_token(mask: Mask) -> NDArray[np.int64]:
        before = np.concatenate([[0], np.cumsum(mask)])
        return before[end] - before[start]

    n_counted = per_token(counted)
    values = {}
    for label, mask in labels.items():
        n_labelled = per_token(mask & counted)
        own = np.full(len(start), NEITHER, dtype=np.int8)
        own[n_labelled == 0] = NEGATIVE
        own[n_labelled == n_counted] = POSITIVE
        own[n_counted == 0] = NEITHER
        values[label] = own
    return values


def token_activations(
    model: StackedHooks, contexts: TokenContexts, batch_size: int = 32
) -> NDArray[np.float32]:
    """Raw activations of the sampled tokens, hook points end to end, (n_rows, d_in)."""
    rows = [x.float().cpu().numpy() for x in _sampled(model, contexts, batch_size)]
    return np.concatenate(rows)


@torch.no_grad()
def _sampled(
    model: StackedHooks, contexts: TokenContexts, batch_size: int
) -> Iterator[torch.Tensor]:
    if batch_size < 1:
        raise InputError(f"batch_size={batch_size} must be 1 or more")
    device = next(model.parameters()).device
    sampled = torch.zeros(contexts.tokens.numel(), dtype=torch.bool)
    sampled[torch.from_numpy(contexts.rows)] = True
    per_context = sampled.view_as(contexts.tokens)
    batches = zip(contexts.tokens.split(batch_size), per_context.split(batch_size), strict=True)
    for tokens, chosen in batches:
        yield model.gather(tokens.to(device))[chosen.to(device)]


def _draw_contexts(
    model: StackedHooks, split: Split, n: int, context_size: int, rng: np.random.Generator
) -> tuple[torch.Tensor, dict[str, NDArray[np.int8]], list[str]]:
    """Contexts (n, context_size), the values of their tokens end to end, and their modules."""
    tokenizer = model.tokenizer
    if not getattr(tokenizer, "is_fast", False):
        raise InputError(
            "tokenizer: that of the model does not tell which characters a token stands for "
            "(it is not a fast one): load the model with a fast tokenizer"
        )
    has_bos = tokenizer.bos_token_id is not None
    special = torch.tensor(get_special_token_ids(tokenizer), dtype=torch.long)
    contexts: list[torch.Tensor] = []
    values: dict[str, list[NDArray[np.int8]]] = {label: [] for label in LABELS}
    names: list[str] = []
    for module in _shuffled(stdlib_modules(split), rng):
        if len(contexts) == n:
            break
        encoded = tokenizer(module.text, add_special_tokens=False, return_offsets_mapping=True)
        width = context_size - has_bos
        n_windows = len(encoded["input_ids"]) // width
        labels = character_labels(module.text) if n_windows else None
        if labels is None:
            continue
        own = token_values(labels, module.text, encoded["offset_mapping"])
        ids = torch.tensor(encoded["input_ids"], dtype=torch.long)
        n_own = min(n_windows, CONTEXTS_PER_MODULE, n - len(contexts))
        for window in np.sort(rng.choice(n_windows, n_own, replace=False)):
            part = slice(window * width, (window + 1) * width)
            bos = ids.new_full((int(has_bos),), tokenizer.bos_token_id or 0)
            context = torch.cat([bos, ids[part]])
            contexts.append(context)
            names.append(module.name)
            is_special = torch.isin(context, special).numpy()
            for label, of_module in own.items():
                of_context = np.concatenate(
                    [np.full(int(has_bos), NEITHER, dtype=np.int8), of_module[part]]
                )
                of_context[is_special] = NEITHER
                values[label].append(of_context)
    if not contexts:
        raise InputError(
            f"context_size={context_size}: no {split} module of the standard library has that many "
            "tokens; take a smaller one"
        )
    return torch.stack(contexts), {k: np.concatenate(v) for k, v in values.items()}, names


def _shuffled(modules: Sequence[Module], rng: np.random.Generator) -> Iterator[Module]:
    return (modules[i] for i in rng.permutation(len(modules)))
