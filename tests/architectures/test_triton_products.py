"""Products with a sparse code by Triton kernels, against dense products in float64.

Without a GPU they run under Triton's interpreter (tests/conftest.py).
"""

import pytest
import torch

from sae_lens_poly.architectures.kernels import sparse_code, triton_products
from sae_lens_poly.errors import InputError
from tests.architectures.test_bfloat16 import a_pattern, relative_error

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture
def by_triton():
    pytest.importorskip("triton")
    sparse_code.use_triton(device=DEVICE)
    yield
    sparse_code.use_triton(False, DEVICE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_products_and_their_gradients_are_those_of_dense_matrices(by_triton, dtype):
    pattern, _ = a_pattern(n=9, d_sae=7)
    places = torch.stack([pattern.rows, pattern.cols], dim=1).to(DEVICE)  # with gaps in memory
    pattern = sparse_code.ActivePattern(*places.unbind(1), pattern.shape)
    torch.manual_seed(1)
    values = torch.randn(len(pattern.rows), dtype=dtype, device=DEVICE, requires_grad=True)
    dense = torch.randn(7, 300, dtype=dtype, device=DEVICE, requires_grad=True)
    upstream = torch.randn(9, 300, dtype=dtype, device=DEVICE)
    product = sparse_code.code_times(pattern.code(values), dense)
    product.backward(upstream)

    code = torch.zeros(9, 7, dtype=torch.float64, device=DEVICE)
    code[pattern.rows, pattern.cols] = values.detach().double()
    wanted = code @ dense.detach().double()
    of_values = (upstream.double() @ dense.detach().double().T)[pattern.rows, pattern.cols]
    within = {torch.float32: 1e-6, torch.float64: 1e-14, torch.bfloat16: 2.0**-8}[dtype]
    assert relative_error(product.detach(), wanted) < within
    assert relative_error(values.grad, of_values) < within
    assert relative_error(dense.grad, code.T @ upstream.double()) < within


def test_nothing_active_gives_zeros(by_triton):
    nothing = torch.zeros(0, dtype=torch.long, device=DEVICE)
    pattern = sparse_code.ActivePattern(nothing, nothing, (3, 5))
    dense = torch.randn(5, 4, device=DEVICE)
    values = torch.zeros(0, device=DEVICE)
    assert torch.equal(pattern.times(values, dense), torch.zeros(3, 4, device=DEVICE))
    left = torch.randn(3, 4, device=DEVICE)
    assert torch.equal(pattern.transposed_times(values, left), torch.zeros(5, 4, device=DEVICE))
    assert len(pattern.entries_of_product(left, dense)) == 0


def test_without_triton_it_is_said(monkeypatch):
    monkeypatch.setattr(triton_products, "triton", None)
    with pytest.raises(InputError, match="pip install triton"):
        sparse_code.use_triton(device="cpu")
