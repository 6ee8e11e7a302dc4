"""What ends a run is said once, whichever process finds it out first."""

import logging
import time

import pytest

from sae_lens_poly import cli
from sae_lens_poly.distributed import one_voice


@pytest.fixture(params=["0", "1"])
def rank(request, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", request.param)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    yield int(request.param)
    logging.disable(logging.NOTSET)


def test_the_first_process_says_it_and_others_give_it_time_to(rank, monkeypatch, capfd):
    """Else torchrun might end the first one before it has said anything."""
    said_before = []
    monkeypatch.setattr(time, "sleep", lambda _: said_before.append(capfd.readouterr().err))
    monkeypatch.setattr(one_voice.sys, "__stderr__", one_voice.sys.stderr)
    assert cli.main(["train", "--d_sae", "-1"]) == 2
    assert said_before == [""] * rank
    assert capfd.readouterr().err.count("error: d_sae") == 1


def test_a_process_that_is_alone_with_its_error_says_it(monkeypatch, capfd):
    monkeypatch.setattr(one_voice, "PATIENCE", 0.0)
    monkeypatch.setattr(one_voice.sys, "__stderr__", one_voice.sys.stderr)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    one_voice.say_once("error: no GPU 1")
    assert capfd.readouterr().err == "error: no GPU 1\n"
