"""What an evaluation reads, no training has read; where that is not known, it is asked for."""

import dataclasses
import json

import pytest
from datasets import Dataset
from sae_lens import LanguageModelSAETrainingRunner

from sae_lens_poly import InputError, TrainingRunner, export_checkpoint
from sae_lens_poly.dictionary_folder import load_dictionary
from sae_lens_poly.evaluation.saved import evaluate_saved, load_evaluation_data
from sae_lens_poly.evaluation.settings import EvaluationSettings
from tests.training.tiny_runs import (
    contexts,
    numbered_rows,
    remember_contexts,
    tiny_config,
    tiny_stack,
    tokenised_rows,
)

SETTINGS = EvaluationSettings(n_batches=2, batch_size_prompts=4, probing=(), n_splice_batches=1)


def trained_on(folder, path, given=None, **changes):
    """A dictionary in folder/output, its model, and the contexts that it was trained on."""
    model = tiny_stack()
    seen = remember_contexts(model)
    TrainingRunner(tiny_config(folder, dataset_path=str(path), **changes), given, model).run()
    return load_dictionary(folder / "output"), model, set(seen)


def held_out(sae, model, **settings):
    return load_evaluation_data(sae, model, dataclasses.replace(SETTINGS, **settings))


@pytest.fixture
def in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("rows", "changes"),
    [
        (numbered_rows(), {}),
        (numbered_rows(12, 3000), {}),  # as long as books: training is in the middle of the first
        (numbered_rows(), {"prefetch_llm_batches": 8}),
        (numbered_rows(2000), {"disable_concat_sequences": True}),
        (tokenised_rows(), {"seqpos_slice": (2, -2)}),
        (tokenised_rows(), {"prefetch_llm_batches": 4, "n_batches_in_buffer": 64}),
    ],
)
def test_no_context_of_training_is_evaluated(in_folder, rows, changes):
    rows.save_to_disk("text")
    sae, model, seen = trained_on(in_folder, "text", **changes)
    data = held_out(sae, model)
    assert not contexts(data.batches) & seen
    with pytest.raises(InputError, match="skip_rows=0, and training read"):
        held_out(sae, model, skip_rows=0)


def test_from_another_folder_and_by_another_name(in_folder, monkeypatch):
    rows = numbered_rows()
    rows.to_json("text.jsonl")
    sae, model, seen = trained_on(in_folder, "text.jsonl")
    expected = contexts(held_out(sae, model).batches)
    (in_folder / "else").mkdir()
    (in_folder / "else" / "copy.jsonl").write_text((in_folder / "text.jsonl").read_text())
    monkeypatch.chdir(in_folder / "else")
    assert contexts(held_out(sae, model).batches) == expected
    for name in ("copy.jsonl", "../text.jsonl", str(in_folder / "text.jsonl")):
        assert contexts(held_out(sae, model, dataset_path=name).batches) == expected
    rows.select(range(len(rows) - 1, -1, -1)).to_json("backwards.jsonl")
    assert not contexts(held_out(sae, model, dataset_path="backwards.jsonl").batches) & seen
    rows.select([3, 2, 1, 0, *range(4, len(rows))]).to_json("swapped.jsonl")
    with pytest.raises(InputError, match=r"another order.*--dataset_path.*--skip_rows"):
        held_out(sae, model, dataset_path="swapped.jsonl")


def test_a_text_that_is_another_now(in_folder):
    rows = numbered_rows()
    rows.to_json("text.jsonl")
    sae, model, _ = trained_on(in_folder, "text.jsonl")
    rows.shuffle(seed=0).to_json("text.jsonl")
    with pytest.raises(InputError, match=r"not those that training began with.*--skip_rows"):
        held_out(sae, model)
    Dataset.from_dict({"text": ["a new text " * 40 + str(i) for i in range(50)]}).to_json("b.jsonl")
    assert held_out(sae, model, dataset_path="b.jsonl").text.n_skipped == 0


def test_a_data_set_that_was_handed_over_in_another_order(in_folder):
    rows = numbered_rows()
    rows.save_to_disk("text")
    sae, model, seen = trained_on(in_folder, "text", rows.shuffle(seed=1))
    with pytest.raises(InputError, match="not those that training began with"):
        held_out(sae, model)
    data = held_out(sae, model, skip_rows=0)  # the user says so; rows that were read stay out
    assert not contexts(data.batches) & seen


def test_a_data_set_without_a_name(in_folder):
    sae, model, _ = trained_on(in_folder, "", numbered_rows())
    with pytest.raises(InputError, match="name one with --dataset_path"):
        held_out(sae, model)
    sae, model, _ = trained_on(in_folder, "stdlib", numbered_rows())
    with pytest.raises(InputError, match="name one with --dataset_path"):
        held_out(sae, model)


@pytest.mark.parametrize("kind", ["stock", "cached"])
def test_what_is_not_recorded_is_asked_for(in_folder, kind):
    rows = numbered_rows()
    rows.to_json("rows/part.jsonl")
    cfg = tiny_config(in_folder, dataset_path="rows")
    model = tiny_stack()
    LanguageModelSAETrainingRunner(cfg, override_model=model).run()
    sae = load_dictionary("output")
    if kind == "cached":
        sae.cfg.metadata.texts_read = [{"dataset_path": "rows", "place": str(in_folder / "rows")}]
    with pytest.raises(InputError, match=r"not recorded.*--skip_rows.*--dataset_path"):
        held_out(sae, model)
    assert held_out(sae, model, skip_rows=400).text.n_skipped == 400
    rows.save_to_disk("other")
    assert held_out(sae, model, dataset_path="other").text.n_skipped == 0


def test_an_older_version_recorded_rows_that_were_finished(in_folder):
    numbered_rows().save_to_disk("text")
    sae, model, _ = trained_on(in_folder, "text")
    metadata = sae.cfg.metadata
    metadata.texts_read, metadata.n_dataset_rows_read = None, 40
    assert held_out(sae, model).text.n_skipped == 41
    metadata.n_dataset_rows_read = 0  # of a cache: nothing was counted
    with pytest.raises(InputError, match="not recorded"):
        held_out(sae, model)


@pytest.mark.parametrize("runner", [TrainingRunner, LanguageModelSAETrainingRunner])
def test_an_exported_checkpoint(in_folder, runner):
    numbered_rows().to_json("rows/part.jsonl")
    model = tiny_stack()
    seen = remember_contexts(model)
    cfg = tiny_config(in_folder, dataset_path="rows", save_final_checkpoint=True)
    runner(cfg, None, model).run()
    trained = set(seen)
    checkpoint = next(in_folder.glob("checkpoints/*/final_*"))
    export_checkpoint(checkpoint, "exported")
    assert not trained & contexts(held_out(load_dictionary("exported"), model).batches)


def test_texts_of_a_dictionary_that_was_trained_twice(in_folder):
    numbered_rows(600, 12).save_to_disk("first")
    numbered_rows(600, 14).save_to_disk("second")
    sae, model, seen = trained_on(in_folder / "a", "first", save_final_checkpoint=True)
    checkpoint = next((in_folder / "a").glob("checkpoints/*/final_*"))
    sae, model, _ = trained_on(in_folder / "b", "second", from_pretrained_path=str(checkpoint))
    assert [text["dataset_path"] for text in sae.cfg.metadata.texts_read] == ["first", "second"]
    assert not contexts(held_out(sae, model, dataset_path="first").batches) & seen


def test_text_that_was_drawn_for_another_dictionary(in_folder):
    numbered_rows().save_to_disk("text")
    sae, model, _ = trained_on(in_folder / "a", "text")
    data = held_out(sae, model)
    assert evaluate_saved(in_folder / "a" / "output", data=data).n_tokens > 0
    trained_on(in_folder / "b", "text", training_tokens=4096)
    with pytest.raises(InputError, match="training read"):
        evaluate_saved(in_folder / "b" / "output", data=data)
    trained_on(in_folder / "c", "text", prepend_bos=False)
    with pytest.raises(InputError, match="prepend_bos=False"):
        evaluate_saved(in_folder / "c" / "output", data=data)


@pytest.mark.parametrize(
    "changes",
    [
        {"exclude_special_tokens": [7, 300]},
        {"exclude_special_tokens": False},
        {"seqpos_slice": (3, 14, 2), "n_batches_in_buffer": 16},
        {"prepend_bos": False, "sequence_separator_token": None},
        {"sequence_separator_token": 9},
        {"autocast_lm": True},
    ],
)
def test_text_is_read_as_in_training(in_folder, changes):
    numbered_rows().save_to_disk("text")
    cfg = tiny_config(in_folder, dataset_path="text", **changes)
    model = tiny_stack()
    runner = TrainingRunner(cfg, None, model)
    runner.run()
    sae = load_dictionary("output")
    metadata = json.loads((in_folder / "output" / "cfg.json").read_text())["metadata"]
    for name, value in changes.items():
        if name == "n_batches_in_buffer":
            continue
        assert metadata[name] == (list(value) if isinstance(value, tuple) else value)
    data = held_out(sae, model)
    tokens = data.batches[0]
    store = runner.activations_store
    x = store.get_activations(tokens).flatten(0, 1)
    ids = tokens[:, slice(*cfg.seqpos_slice)].flatten()
    if store.exclude_special_tokens is not None:
        x = x[~ids.unsqueeze(1).eq(store.exclude_special_tokens).any(1)]
    assert data.model.gather(tokens)[data.keep(tokens)].float().allclose(x)
    separator = 9 if "sequence_separator_token" in changes else model.tokenizer.bos_token_id
    if changes.get("sequence_separator_token", 0) is None:
        assert not (tokens == separator).any()
    else:
        assert (tokens[:, 1:] == separator).any()
    assert evaluate_saved("output", data=data).n_tokens == sum(
        int(data.keep(batch).sum()) for batch in data.batches
    )


def test_a_model_of_another_dtype_is_refused(in_folder):
    numbered_rows().save_to_disk("text")
    sae, model, _ = trained_on(in_folder, "text")
    with pytest.raises(InputError, match=r"bfloat16.*float32"):
        held_out(sae, model.bfloat16())
