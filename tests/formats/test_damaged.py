"""What is wrong with somebody's files is said in one sentence, and nothing in them is run."""

import pytest

from sae_lens_poly import InputError
from tests.formats.damaged import DAMAGES, Copy, no_config, wrong_config, wrong_shape
from tests.formats.folders import CASES

HERE = [case for case in CASES if case.folder is not None and "bf16" not in case.path]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("case", HERE, ids=lambda case: case.path)
def test_one_sentence(tmp_path, case, damage):
    copy = Copy(case, tmp_path)
    if damage in (wrong_config, no_config) and copy.config is None:
        pytest.skip("this format has no config")
    damage(copy)
    with pytest.raises(InputError) as refused:
        copy.load()
    sentence = str(refused.value)
    assert "\n" not in sentence
    assert len(sentence) < 600
    named = copy.config if damage in (wrong_config, no_config) else copy.weights
    # A size that two files do not share is said of the other.
    assert (named.suffix if damage is wrong_shape else named.name) in sentence
    assert not (copy.folder / "code-ran").exists()
