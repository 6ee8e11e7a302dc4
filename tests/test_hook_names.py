"""Patterns of hook points."""

import pytest

from sae_lens_poly import InputError, expand_hook_names


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("blocks.{2..4}.hook_x", ["blocks.2.hook_x", "blocks.3.hook_x", "blocks.4.hook_x"]),
        ("model.layers.{11..12}", ["model.layers.11", "model.layers.12"]),
        ("blocks.{0,4}.hook_x", ["blocks.0.hook_x", "blocks.4.hook_x"]),
        ("{4..3}", ["4", "3"]),
        ("blocks.1.a, blocks.{2,3}.b", ["blocks.1.a", "blocks.2.b", "blocks.3.b"]),
        (["a.1", "b.{1..2}"], ["a.1", "b.1", "b.2"]),
        ("{a,b}.{1..2}", ["a.1", "a.2", "b.1", "b.2"]),
    ],
)
def test_expansion(pattern, names):
    assert expand_hook_names(pattern) == names


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("a.1,a.{0..2}", "'a.1' more than once"),
        ("a.{1..", "brace"),
        ("a.1}", "brace"),
        ("a.{1-3}", "neither a range"),
        ("", "no hook point"),
        ("a.{1..9999}.b.{1..9999}.c.{1..9999}", "more than 4,096"),
        ("{0,1}" * 5000, "more than 4,096"),
        (",".join(map(str, range(5000))), "more than 4,096"),
        ("a.{0..99999999999999999999}", "neither a range"),
        ("a" * 100_000, "100,000 letters"),
        (7, "hook_name=7 is no text"),
        (["a.1", None], "hook_name=None is no text"),
    ],
)
def test_wrong_patterns(pattern, words):
    with pytest.raises(InputError, match=words):
        expand_hook_names(pattern)
