"""A judge against a server with every fault that servers have."""

import pytest

pytest.importorskip("openai")

from sae_lens_poly import InputError
from sae_lens_poly.explanations.judge import Judge, UnreadableAnswer
from sae_lens_poly.explanations.prompts import EXPLANATION_SCHEMA, answer_schema
from tests.explanations.stub import Stub

MESSAGES = [{"role": "user", "content": "What is it?"}]
FINE = {"explanation": "digits"}


def ask(stub, schema=EXPLANATION_SCHEMA, **options):
    with stub.running() as endpoint:
        judge = Judge(endpoint, "stub", **options)
        return judge.ask(MESSAGES, schema), judge


@pytest.mark.parametrize(
    "faults", [[429], [500, 503], [429] * 4, ["cut off"], ["nonsense", "nonsense"], ["no json"]]
)
def test_faults_that_pass_are_lived_through(faults):
    stub = Stub(lambda *_: FINE, faults)
    assert ask(stub)[0] == FINE
    assert stub.n_requests == len(faults) + 1


@pytest.mark.parametrize("fault", ["cut off", "nonsense", "no json"])
def test_what_cannot_be_read_is_asked_for_so_often_and_no_more(fault):
    stub = Stub(lambda *_: FINE, [fault] * 10)
    with pytest.raises(UnreadableAnswer, match="in 3 attempts"):
        ask(stub)
    assert stub.n_requests == 3


@pytest.mark.parametrize(
    "answer",
    [{}, {"passage_1": 1}, {"passage_1": 1, "passage_2": 2}, {"passage_1": 1, "passage_2": "yes"}],
)
def test_an_answer_that_is_not_of_the_form_is_not_taken(answer):
    with pytest.raises(UnreadableAnswer, match="neither 0 nor 1"):
        ask(Stub(lambda *_: answer), answer_schema(2))


@pytest.mark.parametrize("status", [401, 404, 500])
def test_a_server_that_refuses_is_named(status):
    with pytest.raises(InputError, match=r"endpoint='http://127.* model='stub'.*OPENAI_API_KEY"):
        ask(Stub(lambda *_: FINE, [status] * 20), max_retries=1)


def test_a_server_that_is_not_there_is_named():
    judge = Judge("http://127.0.0.1:9/v1", "stub", max_retries=0)
    with pytest.raises(InputError, match=r"127\.0\.0\.1:9"):
        judge.ask(MESSAGES, EXPLANATION_SCHEMA)


def test_a_server_without_structured_output_is_asked_in_words():
    stub = Stub(lambda *_: FINE, structured=False)
    found, judge = ask(stub)
    assert found == FINE
    assert (judge.n_input, judge.n_output) == (100, 10)
