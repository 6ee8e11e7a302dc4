"""Rows of a text: what is left out, what is refused and by which number, and what is remembered."""

import pytest
from datasets import Dataset, DatasetDict, IterableDataset

from sae_lens_poly import InputError, TrainingRunner
from sae_lens_poly.training.rows import N_SAMPLE, Rows, Sample, first_rows, hash_row, hashes_of
from sae_lens_poly.training.text_reading import TextReading
from sae_lens_poly.training.training_text import TrainingText
from tests.training.tiny_runs import numbered_rows, tiny_config, tiny_stack, tokenised_rows

READING = TextReading(context_size=4)
CHAT = TextReading(context_size=4, use_chat_formatting=True)
TURNS = [{"role": "user", "content": "what?"}, {"role": "assistant", "content": "that"}]


@pytest.fixture(scope="module")
def stack():
    return tiny_stack()


def rows_of(stack, columns, reading=READING, **options):
    return Rows(Dataset.from_dict(columns), "dataset_path='t'", reading, stack, **options)


@pytest.mark.parametrize(
    ("columns", "reading", "n_left", "n_read"),
    [
        ({"text": ["a", None, "", "b"], "other": [1, 2, 3, 4]}, READING, 2, 4),
        ({"problem": [None, None, "b", None]}, READING, 1, 4),
        ({"tokens": [[1] * 4, None, [], [2] * 9]}, READING, 2, 4),
        ({"messages": [TURNS, [], None, TURNS]}, CHAT, 2, 4),
        ({"text": ["taken for what a user says"]}, CHAT, 1, 1),
    ],
)
@pytest.mark.parametrize("streamed", [False, True])
def test_rows_without_text_are_left_out_and_counted(
    stack, columns, reading, n_left, n_read, streamed
):
    dataset = Dataset.from_dict(columns)
    dataset = dataset.to_iterable_dataset() if streamed else dataset
    assert isinstance(dataset, IterableDataset) == streamed
    rows = Rows(dataset, "text", reading, stack)
    assert len(list(rows)) == n_left
    assert rows.n_read == n_read
    next(iter(rows))
    assert rows.n_read == n_read  # another epoch reads what was read


@pytest.mark.parametrize(
    ("columns", "reading", "words"),
    [
        ({"tokens": [[1] * 4, [1, 2]]}, READING, "row 11 .* has 2 tokens, .* context_size=4"),
        ({"input_ids": [[1] * 4, [1, 1, -100, 1]]}, READING, "row 11 .* the token -100"),
        ({"tokens": [[1] * 4, [4096] * 4]}, READING, "the token 4096, and .* has 4096"),
        ({"tokens": [[0.5] * 4]}, READING, "row 10 .* no token ids"),
        ({"tokens": [[[1] * 4, [2]]]}, READING, "row 10 .* no token ids"),
        ({"tokens": ["a text"]}, READING, "row 10 .* no token ids"),
        ({"text": [["a", "list"]]}, READING, "row 10 .* list and not text"),
        ({"text": [1, 2]}, READING, "row 10 .* int and not text"),
        ({"conversations": [[{"from": "user", "value": "?"}]]}, CHAT, "without role and content"),
        ({"messages": [3]}, CHAT, "int and not a conversation"),
    ],
)
def test_rows_that_cannot_be_read_are_named(stack, columns, reading, words):
    with pytest.raises(InputError, match=words):
        list(rows_of(stack, columns, reading, n_skipped=10))


@pytest.mark.parametrize(
    ("dataset", "words"),
    [
        (Dataset.from_dict({"content": ["a"]}), "no column .*'text'.*, but 'content'"),
        (Dataset.from_dict({"text": []}), "no rows"),
        (DatasetDict(train=Dataset.from_dict({"text": ["a"]})), "splits, train"),
    ],
)
def test_data_sets_without_rows(stack, dataset, words):
    with pytest.raises(InputError, match=words):
        Rows(dataset, "text", READING, stack)


def test_the_column_of_training_is_read_again(stack):
    columns = {"tokens": [[1] * 4], "text": ["a"]}
    assert rows_of(stack, columns).column == "tokens"
    assert rows_of(stack, columns, TextReading(text_column="text")).column == "text"
    assert rows_of(stack, {"problem": ["a"]}, TextReading(text_column="text")).column == "problem"


def test_known_rows(stack):
    columns = {"text": ["a", "b", "c"]}
    known = {hash_row("b")}
    left = rows_of(stack, columns, known=known, leave_out_known=True)
    assert [row["text"] for row in left] == ["a", "c"]
    with pytest.raises(InputError, match="its row 1 is one that"):
        list(rows_of(stack, columns, known=known))


def test_what_tells_a_text(stack):
    texts = [f"row {i}" for i in range(20)]
    tells = first_rows(rows_of(stack, {"text": texts}))
    assert tells == first_rows(rows_of(stack, {"text": [None, *texts[:8], "another"]}))
    assert tells != first_rows(rows_of(stack, {"text": texts[::-1]}))
    tokens = [[i, i + 1, i + 2, i + 3] for i in range(9)]
    whole = first_rows(rows_of(stack, {"tokens": tokens}))
    streamed = Dataset.from_dict({"tokens": tokens}).to_iterable_dataset()
    assert whole == first_rows(Rows(streamed, "", READING, stack))


def test_a_sample_does_not_depend_on_the_order():
    digests = [hash_row(str(i)) for i in range(3 * N_SAMPLE)]
    there, back = Sample(), Sample()
    for one, other in zip(digests, digests[::-1], strict=True):
        there.add(one)
        back.add(other)
        back.add(other)
    assert there.to_text() == back.to_text()
    assert hashes_of(there.to_text()) == set(sorted(digests)[:N_SAMPLE])


@pytest.mark.parametrize(
    ("dataset", "changes", "words"),
    [
        (Dataset.from_dict({"text": ["too short"] * 9}), {}, "not one context of context_size=200"),
        (
            numbered_rows(30, 20),
            {"disable_concat_sequences": True},
            "not one context of context_size=200",
        ),
        (tokenised_rows(8, 32), {}, "row 0 .* has 32 tokens, fewer than context_size=200"),
        (numbered_rows(), {"use_chat_formatting": True}, "cannot be read .*chat_template"),
        (numbered_rows(), {"model_kwargs": {"attention_mask": 1}}, "attention_mask"),
    ],
)
def test_text_that_cannot_work_is_refused_before_training(tmp_path, stack, dataset, changes, words):
    changes = {"context_size": 100, **changes}
    words = words.replace("200", "100")
    with pytest.raises(InputError, match=words):
        TrainingText.of_run(tiny_config(tmp_path, **changes), stack, dataset)


def test_a_row_that_cannot_be_read_ends_a_run_as_a_signal_does(tmp_path):
    rows = tokenised_rows(200)
    broken = rows.to_dict()["input_ids"]
    broken[110] = broken[110][:5]
    Dataset.from_dict({"input_ids": broken}).save_to_disk(tmp_path / "broken")
    cfg = tiny_config(tmp_path, dataset_path=str(tmp_path / "broken"))
    with pytest.raises(InputError, match=r"row 110 .* has 5 tokens.*--resume_from_checkpoint") as e:
        TrainingRunner(cfg, override_model=tiny_stack()).run()
    assert not (tmp_path / "output").exists()
    checkpoint = str(e.value).rsplit(" ", 1)[1]
    rows.save_to_disk(tmp_path / "mended")
    cfg = tiny_config(
        tmp_path, dataset_path=str(tmp_path / "mended"), resume_from_checkpoint=checkpoint
    )
    TrainingRunner(cfg, override_model=tiny_stack()).run()
    assert (tmp_path / "output" / "cfg.json").is_file()
