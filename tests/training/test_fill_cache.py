"""Activations that are stored once, by several jobs, and trained on."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sae_lens_poly import InputError, TrainingRunner
from sae_lens_poly.activations.reader import CachedRows
from sae_lens_poly.activations.shards import claimed, open_shard
from sae_lens_poly.activations.shuffle import Shuffled
from sae_lens_poly.activations.storage import unpack
from sae_lens_poly.dictionary_folder import load_dictionary
from sae_lens_poly.training.fill_cache import CacheFiller
from sae_lens_poly.training.runner import StoppedRun
from tests.training.tiny_runs import CONTEXT, numbered_rows, tiny_config, tiny_stack


@pytest.fixture
def text(tmp_path):
    numbered_rows().to_json(tmp_path / "text.jsonl")
    return str(tmp_path / "text.jsonl")


def filler(tmp_path, text, storage="bfloat16", name="cache", **changes):
    cfg = tiny_config(tmp_path, dataset_path=text, training_tokens=2000, **changes)
    return CacheFiller(cfg, tiny_stack(), tmp_path / name, storage, tokens_per_shard=256)


def filled(tmp_path, text, **options):
    job = filler(tmp_path, text, **options)
    job.begin()
    job.fill()
    return job


def trained(tmp_path, text, **changes):
    cfg = tiny_config(
        tmp_path,
        dataset_path=text,
        use_cached_activations=True,
        cached_activations_path=str(tmp_path / "cache"),
        **changes,
    )
    return TrainingRunner(cfg, override_model=tiny_stack())


def in_order(rows):
    return sorted(map(tuple, rows.tolist()))


def test_it_holds_the_activations_of_the_text_each_once(tmp_path, text):
    job = filled(tmp_path, text)
    rows = CachedRows(tmp_path / "cache")
    whole = rows.batch(0, len(rows))
    store = job.reading.store(job.model, job.text.dataset, 1)
    bos = job.model.tokenizer.bos_token_id
    expected = []
    for _ in range(job.description.n_contexts):
        tokens = store.get_batch_tokens(1)
        expected.append(job.model.gather(tokens)[tokens != bos])
    expected = torch.cat(expected).bfloat16().float()
    assert len(whole) == len(expected)
    assert in_order(whole) == in_order(expected)
    assert not torch.equal(whole, expected)
    again = CachedRows(tmp_path / "cache").batch(100, 50)
    assert torch.equal(again, whole[100:150])
    second = rows.batch(len(rows) - 10, 20)
    assert torch.equal(second[:10], whole[-10:])
    assert in_order(rows.batch(len(rows), len(rows))) == in_order(whole)


@pytest.mark.parametrize("storage", ["bfloat16", "int8"])
def test_tokens_come_in_the_order_asked(tmp_path, text, storage):
    filled(tmp_path, text, storage=storage)
    rows = CachedRows(tmp_path / "cache")
    stored = torch.cat([unpack(shard).flatten(1) for shard in rows.shards])
    assert len(rows.shards) > 2
    numbers = torch.tensor([len(rows) - 1, 5, 2, 2, len(rows) // 2, 0])
    assert torch.equal(rows.numbered(numbers), stored[numbers])
    places = torch.arange(100, 150)
    assert torch.equal(rows.batch(100, 50), stored[Shuffled(len(rows), rows.seed)(places)])


def test_fewer_hook_points_are_read_from_more(tmp_path, text):
    filled(tmp_path, text)
    both = CachedRows(tmp_path / "cache").batch(0, 64)
    one = CachedRows(tmp_path / "cache", ["model.layers.2"]).batch(0, 64)
    assert torch.equal(one, both[:, 32:])
    with pytest.raises(InputError, match=r"'model.layers.0' is not among the hook points"):
        CachedRows(tmp_path / "cache", ["model.layers.0"])


def test_a_text_that_is_shorter_ends_the_cache(tmp_path):
    text = str(tmp_path / "short.jsonl")
    numbered_rows(10).to_json(text)
    job = filled(tmp_path, text)
    assert not job.missing()
    assert 0 < len(CachedRows(tmp_path / "cache")) < 1000


def test_training_sees_every_token_once_and_the_record_says_which_text(tmp_path, text):
    filled(tmp_path, text)
    runner = trained(tmp_path, text, training_tokens=1600)
    seen, step = [], runner.sae.training_forward_pass

    def remember(step_input):
        seen.append(step_input.sae_in)
        return step(step_input)

    runner.sae.training_forward_pass = remember
    runner.run()
    rows = CachedRows(tmp_path / "cache", seed=runner.cfg.seed)
    torch.testing.assert_close(torch.cat(seen), rows.batch(0, 1600))
    (read,) = load_dictionary(tmp_path / "output").cfg.metadata.texts_read
    assert read["dataset_path"] == text
    assert read["n_rows"] == rows.n_rows_read > 40
    assert read["sample"]
    assert read["first_rows"]


def test_a_run_that_is_stopped_and_resumed_is_the_run_that_was_not(tmp_path, text):
    filled(tmp_path, text)
    trained(tmp_path, text, training_tokens=1280).run()
    whole = load_dictionary(tmp_path / "output").state_dict()

    stopping = trained(tmp_path, text, training_tokens=1280, output_path=str(tmp_path / "second"))
    step = stopping.sae.training_forward_pass

    def stop_at_7(step_input):
        if step_input.n_training_steps == 7:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(step_input)

    stopping.sae.training_forward_pass = stop_at_7
    with pytest.raises(StoppedRun) as stopped:
        stopping.run()
    trained(
        tmp_path,
        text,
        training_tokens=1280,
        output_path=str(tmp_path / "second"),
        resume_from_checkpoint=str(stopped.value.checkpoint),
    ).run()
    for name, tensor in load_dictionary(tmp_path / "second").state_dict().items():
        torch.testing.assert_close(tensor, whole[name], rtol=0, atol=0)


def test_what_does_not_fit_is_refused(tmp_path, text):
    filled(tmp_path, text)
    with pytest.raises(InputError, match="was read with context_size=16, and this run has"):
        trained(tmp_path, text, context_size=CONTEXT + 2)
    with pytest.raises(InputError, match="prefetch_llm_batches"):
        trained(tmp_path, text, prefetch_llm_batches=True)
    with pytest.raises(InputError, match="holds activations with storage='bfloat16'"):
        filled(tmp_path, text, storage="int8")
    next((tmp_path / "cache").glob("shard-000002*")).unlink()
    with pytest.raises(InputError, match="lacks 1 of its 8 shards"):
        trained(tmp_path, text)
    filled(tmp_path, text)  # makes it
    next((tmp_path / "cache").glob("shard-000002*")).write_bytes(b"0" * 100)
    with pytest.raises(InputError, match="shard-000002"):
        trained(tmp_path, text)


def test_a_disk_that_is_too_small_is_refused_before_the_model_runs(tmp_path, text, monkeypatch):
    job = filler(tmp_path, text)
    assert "2,000 tokens at 2 hook points of width 32 in bfloat16: 0.000 GB in 8" in job.size()
    job.n_bytes_left = 10**18
    with pytest.raises(InputError, match="MB are needed"):
        job.begin()
    assert not (tmp_path / "cache").exists()


def test_a_shard_is_claimed_by_one_job(tmp_path):
    with claimed(tmp_path, 3) as mine, claimed(tmp_path, 3) as other, claimed(tmp_path, 4) as next_:
        assert (mine, other, next_) == (True, False, True)
    with claimed(tmp_path, 3) as mine:
        assert mine


JOB = """
import sys, time, torch
from pathlib import Path
from tests.training.test_fill_cache import filler
torch.set_num_threads(1)
job = filler(Path(sys.argv[1]), sys.argv[2])
job.begin()
print("ready", flush=True)
job.fill(on_shard=lambda number: (print(number, flush=True), time.sleep(0.3)))
"""


@pytest.mark.slow
def test_two_jobs_of_which_one_is_killed_and_restarted(tmp_path, text):
    def start():
        command = [sys.executable, "-c", JOB, str(tmp_path), text]
        root = Path(__file__).parents[2]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root)

    jobs = [start(), start()]
    for job in jobs:
        assert job.stdout.readline() == "ready\n"
    assert jobs[0].stdout.readline().strip().isdecimal()
    jobs[0].send_signal(signal.SIGKILL)
    restarted = start()
    for job in (jobs[1], restarted):
        job.communicate(timeout=120)
        assert job.returncode == 0
    jobs[0].communicate()

    alone = filled(tmp_path, text, name="alone")
    assert not alone.missing()
    for path in sorted((tmp_path / "alone").glob("shard-*")):
        tensors, record = open_shard(path, "bfloat16", 2, 32)
        others, of_others = open_shard(tmp_path / "cache" / path.name, "bfloat16", 2, 32)
        assert record == of_others
        assert torch.equal(tensors["x"], others["x"])
    assert not list((tmp_path / "cache").glob(".unfinished*"))
