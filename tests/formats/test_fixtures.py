"""What official code computes is what the converted dictionary computes."""

import pytest
import torch

from tests.formats.folders import CASES


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.path)
def test_codes_and_reconstructions(case):
    if case.folder is None:
        pytest.skip(f"{case.path} is not here")
    sae = case.load()
    x, codes, x_hat = case.reference(sae)
    x = x.to(sae.dtype)
    found = sae.encode(x)
    assert (found.float() - codes.float()).abs().max() <= case.tolerance
    assert torch.equal(found != 0, codes != 0)
    reconstruction = sae(x)[:, -x_hat.shape[1] :].float()
    error = (reconstruction - x_hat.float()).abs().max() / x_hat.float().abs().max()
    assert error <= case.tolerance
