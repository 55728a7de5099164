"""Sparse products and rows by index, against the dense matrix: values, gradients, layouts, graphs."""

import pytest
import torch
from torch import Tensor

from tests.engine.checks import CLOSE, check_gather, check_product
from tests.engine.inputs import at_nonzeros, case, feature_major, generator, normal, sparse, thinned
from thinwire.engine.layout import activations, features, is_feature_major
from thinwire.engine.spmm import operators as spmm
from thinwire.engine.spmm.reference import dense

MATRICES = [(1, 1, 1.0), (7, 5, 0.3), (40, 33, 0.1), (33, 65, 0.02), (130, 17, 0.25), (6, 11, 0.0), (9, 4, 1.0)]
"""Rows, columns, density: the sparsest have empty rows and columns, one nothing at all, some long rows."""
LEADS = [(3, 5), (1,), (1, 1), (530,), (0, 4), (2, 1, 3)]


def matrix_of(rows: int, columns: int, density: float, seed: int = 0) -> Tensor:
    return thinned(normal(rows, columns, seed=seed), density, seed + 1)


def test_products_and_gradients() -> None:
    for matrix in MATRICES:
        for lead in LEADS:
            for by_feature in (True, False):
                with case(matrix, lead, by_feature):
                    check_product(matrix_of(*matrix), lead, by_feature)


def test_rows_of_every_length_and_more_tokens_than_a_block() -> None:
    """Nonzeros are added four at a time; threads take 2048 tokens at once."""
    matrix = normal(14, 14).tril(-1)
    check_product(matrix, (2, 1100), by_feature=True)
    check_product(matrix[:, :13].T.contiguous(), (2049,), by_feature=False)


def test_rows_by_index_and_their_gradient() -> None:
    for matrix in [*MATRICES, (3, 90, 0.9), (11, 150, 0.5)]:
        for lead in [(2, 70), (1, 1), (4,), (0, 4), (2, 3, 2), (3, 64)]:
            with case(matrix, lead):
                check_gather(matrix_of(*matrix), lead)
    pattern, values = sparse(matrix_of(7, 5, 0.5))
    tokens = torch.tensor([3, 0, 6]).expand(2, -1)
    assert spmm.gather_rows(tokens, pattern, values).equal(dense(pattern, values)[tokens])
    table = normal(11, 64 * 70)  # the result is written with streaming stores
    tokens = torch.randint(11, (3, 16 * 50), generator=generator(0))
    assert spmm.table_rows(tokens, table).equal(table[tokens])


def test_pattern_knows_rows_and_columns() -> None:
    matrix = matrix_of(20, 30, 0.1)
    pattern, values = sparse(matrix)
    assert dense(pattern, values).equal(matrix)
    columns = torch.arange(30).repeat_interleave(pattern.csc_indptr.diff().long())
    transposed = torch.zeros_like(matrix.T)
    transposed[columns, pattern.csc_indices.long()] = values.detach()[pattern.csc_order]
    assert transposed.T.equal(matrix)
    with pytest.raises(ValueError, match="takes 30 channels, not 29"):
        spmm.multiply(normal(2, 29), pattern, values, torch.zeros(20))


@pytest.mark.parametrize("of_x", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("of_values", [torch.float32, torch.bfloat16])
def test_bfloat16(of_x: torch.dtype, of_values: torch.dtype) -> None:
    """Everything is computed in float32, and gradients have the dtypes of what they are for."""
    matrix = matrix_of(30, 50, 0.2).to(of_values).float()
    pattern, values = sparse(matrix)
    values = values.detach().to(of_values).requires_grad_()
    x, towards = normal(2, 9, 50, seed=2).to(of_x).requires_grad_(), normal(2, 9, 30, seed=3)
    y = spmm.multiply(x, pattern, values, torch.zeros(30))
    assert y.dtype == torch.float32
    torch.testing.assert_close(y, x.float() @ matrix.T, **CLOSE)
    d_x, d_values = torch.autograd.grad(y, (x, values), towards)
    assert (d_x.dtype, d_values.dtype) == (of_x, of_values)
    rough = {"rtol": 2**-7, "atol": 1e-3}
    torch.testing.assert_close(d_x, (towards @ matrix).to(of_x), **(CLOSE if of_x == torch.float32 else rough))
    whole = at_nonzeros(towards.flatten(0, 1).T @ x.float().flatten(0, 1), pattern)
    torch.testing.assert_close(d_values, whole.to(of_values), **(CLOSE if of_values == torch.float32 else rough))
    assert spmm.gather_rows(torch.tensor([3, 3, 0]), pattern, values).equal(matrix[[3, 3, 0]])


def test_each_gradient_alone() -> None:
    """Where the values have none, activations are not kept."""
    pattern, values = sparse(matrix_of(12, 9, 0.3))
    leaves = [normal(5, 9, seed=2), values.detach(), normal(12, seed=3)]
    together = [leaf.clone().requires_grad_() for leaf in leaves]
    spmm.multiply(together[0], pattern, *together[1:]).square().sum().backward()
    for wanted in range(3):
        own = [leaf.clone().requires_grad_(i == wanted) for i, leaf in enumerate(leaves)]
        spmm.multiply(own[0], pattern, *own[1:]).square().sum().backward()
        for i, (one, other) in enumerate(zip(own, together, strict=True)):
            assert (one.grad is None) == (i != wanted)
            assert one.grad is None or one.grad.equal(other.grad)  # pyright: ignore
    with torch.no_grad():
        assert not spmm.multiply(leaves[0], pattern, values, leaves[2]).requires_grad


@pytest.mark.parametrize("token", [-1, 7, 2**40])
def test_tokens_outside_the_matrix_are_refused(token: int) -> None:
    """As the dense embedding does; a kernel would read memory that is not its own."""
    pattern, values = sparse(matrix_of(7, 5, 0.3))
    for rows in (lambda x: spmm.gather_rows(x, pattern, values), lambda x: spmm.table_rows(x, normal(7, 5))):
        with pytest.raises(IndexError):
            rows(torch.tensor([[0, token]]))
        with pytest.raises(TypeError, match="integers"):
            rows(torch.tensor([[0.5]]))


def test_layouts() -> None:
    x = normal(2, 3, 5)
    transposed = activations(features(x), (2, 3))
    assert transposed.equal(x)
    assert is_feature_major(transposed)
    assert not is_feature_major(x)
    assert features(transposed).data_ptr() == transposed.data_ptr()
    assert not any(map(is_feature_major, (normal(5), normal(1, 1, 5), transposed[..., :1], transposed[:, :2])))
    assert is_feature_major(transposed + 1)
    assert features(transposed[:, :2]).equal(features(x[:, :2]))


def test_operators_keep_the_contract_of_torch() -> None:
    pattern, values = sparse(matrix_of(12, 20, 0.2))
    bias, tokens = normal(12).requires_grad_(), torch.tensor([[0, 3], [3, 11]])
    for x in (normal(2, 3, 20).requires_grad_(), feature_major(normal(2, 3, 20)), normal(2, 3, 20).bfloat16()):
        torch.library.opcheck(spmm.sparse_linear.op, (x.requires_grad_(), values, bias, pattern.tensors))
    torch.library.opcheck(spmm.sparse_rows.op, (tokens, values, pattern.indices, pattern.indptr, 20))
    torch.library.opcheck(spmm.table_rows.op, (torch.randint(11, (2, 70)), normal(11, 30)))


def test_compiles_as_one_graph() -> None:
    table, first = sparse(matrix_of(12, 20, 0.2))
    pattern, second = sparse(matrix_of(9, 20, 0.3, seed=1))
    tokens, bias = torch.tensor([[0, 3, 5], [3, 11, 0]]), normal(9).requires_grad_()

    def work(first: Tensor, second: Tensor, bias: Tensor) -> Tensor:
        return spmm.multiply(2 * spmm.gather_rows(tokens, table, first), pattern, second, bias).square().sum()

    leaves = first, second, bias
    torch._dynamo.reset()
    expected = work(*leaves)
    ours = torch.compile(work, backend="aot_eager", fullgraph=True)(*leaves)
    torch.testing.assert_close(ours, expected)
    for one, other in zip(torch.autograd.grad(ours, leaves), torch.autograd.grad(expected, leaves), strict=True):
        torch.testing.assert_close(one, other)
