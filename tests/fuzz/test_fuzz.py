"""A part of the fuzzing, and that it finds what it looks for."""

import pytest

from sae_lens_poly import InputError
from tests.fuzz.__main__ import RIGHT
from tests.fuzz.mutations import CANARY
from tests.fuzz.targets import NOT_FINITE, REFUSED, TAKEN, TRACEBACK, outcome_of
from tests.fuzz.workers import run_cases

COUNTS = {"saved dictionaries": 16, "checkpoints": 12, "comparison files, labelled sets": 16}


def test_nothing_damaged_is_taken_and_nothing_ends_in_a_traceback():
    cases = [(target, 7, number) for target, n in COUNTS.items() for number in range(n)]
    CANARY.unlink(missing_ok=True)
    found = list(run_cases(cases, jobs=2))
    assert len(found) == len(cases)
    assert [(case, outcome) for case, outcome in found if outcome.kind not in RIGHT] == []
    assert sum(outcome.kind == REFUSED for _, outcome in found) > len(cases) // 2
    assert not CANARY.exists()


def refused():
    raise InputError("x=1 must be 2")


@pytest.mark.parametrize(
    ("what", "use", "kind"),
    [
        ("a", refused, REFUSED),
        ("! a", lambda: True, TAKEN),
        ("a", lambda: False, NOT_FINITE),
        ("a", lambda: {}["a"], TRACEBACK),
    ],
)
def test_outcomes(what, use, kind):
    assert outcome_of(what, use).kind == kind
