"""One process of a run speaks; the others are silent."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout

#: Seconds that the first process has to say what the others have found out too.
PATIENCE = 60.0


def rank_of_torchrun() -> int:
    """The number that torchrun gave to this process; 0 without torchrun."""
    rank = os.environ.get("RANK", "0")
    return int(rank) if rank.isdigit() and n_processes_of_torchrun() > 1 else 0


def n_processes_of_torchrun() -> int:
    """How many processes torchrun has started; 1 without torchrun."""
    number = os.environ.get("WORLD_SIZE", "1")
    return int(number) if number.isdigit() and "RANK" in os.environ else 1


@contextmanager
def one_voice() -> Iterator[None]:
    """Within it, all processes but the first print, log and send to wandb nothing."""
    if rank_of_torchrun() == 0:
        yield
        return
    os.environ["WANDB_MODE"] = "disabled"
    logging.disable(logging.CRITICAL)
    with ExitStack() as stack:
        nowhere = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
        stack.enter_context(redirect_stdout(nowhere))
        stack.enter_context(redirect_stderr(nowhere))
        yield


def say(message: str) -> None:
    """Print a message to where the standard error of this process went at its start."""
    print(message, file=sys.__stderr__, flush=True)


def say_once(message: str) -> None:
    """Print what ends this process, and perhaps all of a run for the same reason.

    torchrun ends all processes as soon as one has ended. So the others wait for the first one,
    which may not have come as far; where it has not found out the same, they speak themselves.
    """
    if rank_of_torchrun() == 0:
        print(message, file=sys.stderr)
        return
    time.sleep(PATIENCE)
    say(message)
