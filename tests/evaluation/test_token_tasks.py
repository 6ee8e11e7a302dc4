"""Tasks on tokens of Python source: alignment, what is drawn from where, and features."""

import numpy as np
import pytest
import torch

from sae_lens_poly import StackedHooks
from sae_lens_poly.embedded.corpus import is_held_out, stdlib_modules
from sae_lens_poly.errors import InputError
from sae_lens_poly.evaluation.probing import probe_tasks
from sae_lens_poly.evaluation.python_labels import LABELS, character_labels
from sae_lens_poly.evaluation.scaled_codes import scaled_codes, sparse_codes
from sae_lens_poly.evaluation.token_tasks import (
    CONTEXTS_PER_MODULE,
    token_activations,
    token_tasks,
    token_values,
)
from tests.architectures.dictionaries import randomise, training_dictionary
from tests.evaluation.test_python_labels import EXPECTED, SOURCE


@pytest.fixture(scope="module")
def model(embedded_model):
    return StackedHooks(embedded_model, "blocks.{1,4}.hook_resid_post")


@pytest.fixture(scope="module")
def drawn(model):
    return token_tasks(model, 40, 20, context_size=64, n_train=200, n_test=100)


def encoded(model, source):
    found = model.tokenizer(source, add_special_tokens=False, return_offsets_mapping=True)
    return found["input_ids"], found["offset_mapping"]


def without_space(text):
    return "".join(text.split())


@pytest.mark.parametrize("label", ["comment", "docstring", "number", "import", "raise"])
def test_positive_tokens_are_exactly_what_is_labelled(model, label):
    ids, offsets = encoded(model, SOURCE)
    values = token_values(character_labels(SOURCE), SOURCE, offsets)[label]
    # Bytes of one character may lie in several tokens, so that ids are decoded together.
    positive = model.tokenizer.decode([i for i, v in zip(ids, values, strict=True) if v == 1])
    expected = "".join(EXPECTED[label])
    assert without_space(positive) == without_space(expected)


@pytest.mark.parametrize("label", LABELS)
def test_positive_and_negative_tokens_are_on_their_side_only(model, label):
    _, offsets = encoded(model, SOURCE)
    labels = character_labels(SOURCE)
    values = token_values(labels, SOURCE, offsets)[label]
    for (start, end), value in zip(offsets, values, strict=True):
        inside = [labels[label][i] for i in range(start, end) if not SOURCE[i].isspace()]
        if value == 1:
            assert inside
            assert all(inside)
        elif value == 0:
            assert inside
            assert not any(inside)
        else:
            assert not inside or len(set(inside)) == 2


def test_contexts_are_of_the_modules_of_their_split(model, drawn):
    texts = {m.name: m.text for split in ("train", "held_out") for m in stdlib_modules(split)}
    for contexts, held_out in ((drawn.train, False), (drawn.test, True)):
        assert all(is_held_out(name) == held_out for name in contexts.modules)
        assert max(map(contexts.modules.count, contexts.modules)) <= CONTEXTS_PER_MODULE
        for tokens, name in zip(contexts.tokens, contexts.modules, strict=True):
            assert tokens[0] == model.tokenizer.bos_token_id
            whole_characters = model.tokenizer.decode(tokens[1:]).strip("\ufffd")
            assert whole_characters in texts[name]


def test_bos_is_never_drawn_and_labels_are_those_of_the_source(model, drawn):
    assert {task.name for task in drawn.tasks} > {"comment", "docstring", "keyword", "called name"}
    keywords = {"def", "return", "if", "else", "for", "in", "not", "import", "from", "class"}
    for contexts, part in ((drawn.train, "train"), (drawn.test, "test")):
        ids = contexts.tokens.flatten()[torch.from_numpy(contexts.rows)]
        assert not (ids == model.tokenizer.bos_token_id).any()
        assert (np.diff(contexts.rows) > 0).all()
        assert set(np.unique(np.concatenate([getattr(t, part) for t in drawn.tasks]))) == set(
            range(len(contexts.rows))
        )
        for task in drawn.tasks:
            rows, positive = getattr(task, part), getattr(task, f"{part}_positive")
            assert positive.sum() * 2 == len(rows) <= (200 if part == "train" else 100)
            texts = [model.tokenizer.decode(i).strip() for i in ids[torch.from_numpy(rows)]]
            own = [t for t, is_positive in zip(texts, positive, strict=True) if is_positive]
            if task.name == "number":
                assert all(t[0].isalnum() or t[0] in "._" for t in own)
            if task.name == "keyword":
                assert sum(t in keywords for t in own) > 0.6 * len(own)


def test_a_seed_draws_the_same_tokens(model, drawn):
    same = token_tasks(model, 40, 20, context_size=64, n_train=200, n_test=100)
    assert torch.equal(same.train.tokens, drawn.train.tokens)
    assert all(np.array_equal(a.test, b.test) for a, b in zip(same.tasks, drawn.tasks, strict=True))


def test_features_are_those_of_the_sampled_tokens(model, drawn):
    fields = {"d_in": model.d_in, "n_hooks": 2, "d_sae": 48, "k": 6}
    sae = randomise(training_dictionary("linear", **fields)).to_inference()
    raw = token_activations(model, drawn.test, batch_size=7)
    features = sparse_codes(sae, torch.from_numpy(raw), batch_size=100)
    assert features.shape == (len(drawn.test.rows), 48)
    assert features.dtype == np.float32
    for number in (0, len(drawn.test.rows) // 2, len(drawn.test.rows) - 1):
        context, position = divmod(int(drawn.test.rows[number]), 64)
        x = model.gather(drawn.test.tokens[context][None])[0, position]
        np.testing.assert_allclose(raw[number], x.numpy(), rtol=1e-3, atol=1e-3)
        expected = scaled_codes(sae, x[None])[0].detach().numpy()
        tolerance = 1e-4 * np.abs(expected).max()
        np.testing.assert_allclose(features[number].toarray()[0], expected, 1e-3, tolerance)


def test_the_model_knows_what_a_keyword_is(model, drawn):
    features = [token_activations(model, contexts) for contexts in (drawn.train, drawn.test)]
    scores = {s.task: s for s in probe_tasks(*features, drawn.tasks, (None,))}
    assert scores["keyword"].f1 > 0.85


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_train_contexts": 0}, "n_train_contexts=0"),
        ({"n_test": 4}, "n_test=4"),
        ({"context_size": 1000}, "context_size=1000"),
    ],
)
def test_wrong_input_is_refused(model, options, message):
    with pytest.raises(InputError, match=message):
        token_tasks(model, **options)


def test_a_tokenizer_without_offsets_is_refused(model):
    class Slow:
        is_fast = False

    class OtherModel:
        tokenizer, n_ctx = Slow(), model.n_ctx
        check_context_size = model.check_context_size

    with pytest.raises(InputError, match="fast tokenizer"):
        token_tasks(OtherModel())
