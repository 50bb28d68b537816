"""Gradients of matrices by products.c equal products in fp64, whatever the sizes."""

import pytest
import torch

from isoflop.model import load_kernels


@pytest.mark.parametrize(("K", "m", "n"), [(1, 1, 1), (17, 5, 70), (130, 33, 16), (64, 300, 24), (63, 24, 300)])
def test_columns_of_wider_matrices_are_multiplied_and_nothing_beside_them_is_touched(K: int, m: int, n: int) -> None:
    kernels = load_kernels()
    assert kernels is not None, "the tests need a C compiler"
    if not kernels.multiplies(1):
        pytest.skip("this processor does not multiply bf16")
    random = torch.Generator().manual_seed(0)
    a, b = (torch.full((K, width + 5), torch.nan, dtype=torch.bfloat16)[:, 1 : width + 1] for width in (m, n))
    a.copy_(torch.randn(a.shape, generator=random))
    b.copy_(torch.randn(b.shape, generator=random))
    memory = torch.full((m * n + 1,), 7, dtype=torch.bfloat16)
    kernels.multiply_columns(K, m, n, a, a.stride(0), b, b.stride(0), memory)
    wanted = a.double().t() @ b.double()
    # The one rounding is that of a sum to bf16.
    assert float((memory[:-1].view(m, n).double() - wanted).norm()) < 0.0025 * float(wanted.norm())
    assert memory[-1] == 7
