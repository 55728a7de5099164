"""Sparse products and rows by index on CPU kernels, against the dense matrix: values, gradients, layouts, graphs."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from thinwire.engine.layout import activations, features, is_feature_major
from thinwire.engine.spmm import operators as products
from thinwire.engine.spmm.operators import SparsePattern, table_rows

CLOSE = {"rtol": 1e-4, "atol": 1e-5}
MATRICES = [(1, 1, 1.0), (7, 5, 0.3), (40, 33, 0.1), (33, 65, 0.02), (130, 17, 0.25), (6, 11, 0.0), (9, 4, 1.0)]
"""Rows, columns, density: the sparsest have empty rows and columns, one nothing at all, some long rows."""


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def matrix_of(rows: int, columns: int, density: float, seed: int = 0) -> Tensor:
    drawn = torch.rand(rows, columns, generator=torch.Generator().manual_seed(seed + 1))
    return normal(rows, columns, seed=seed) * (drawn < density)


def sparse(matrix: Tensor) -> tuple[SparsePattern, Tensor]:
    """Where the nonzeros are, and their values, which are to have gradients."""
    places = matrix.nonzero(as_tuple=True)
    return SparsePattern.of(*places, (matrix.shape[0], matrix.shape[1])), matrix[places].requires_grad_()


def places_of(pattern: SparsePattern) -> tuple[Tensor, Tensor]:
    return pattern.row_of_each(), pattern.indices.long()


def check_product(matrix: Tensor, lead: tuple[int, ...], by_feature: bool) -> None:
    pattern, values = sparse(matrix)
    x = normal(*lead, pattern.n_columns, seed=2)
    x = (activations(features(x), lead) if by_feature else x).requires_grad_()
    bias, towards = normal(pattern.n_rows, seed=3).requires_grad_(), normal(*lead, pattern.n_rows, seed=4)
    whole = matrix.double().requires_grad_()
    y, twin = pattern.multiply(x, values, bias), F.linear(x.double(), whole, bias.double())
    assert y.shape == twin.shape
    assert y.movedim(-1, 0).is_contiguous()
    torch.testing.assert_close(y.double(), twin, **CLOSE)
    d_x, d_values, d_bias = torch.autograd.grad(y, (x, values, bias), towards)
    expected_x, expected_whole, expected_bias = torch.autograd.grad(twin, (x, whole, bias), towards.double())
    assert d_x.movedim(-1, 0).is_contiguous()
    torch.testing.assert_close(d_x, expected_x, **CLOSE)
    torch.testing.assert_close(d_values.double(), expected_whole[places_of(pattern)], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(d_bias, expected_bias, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("by_feature", [True, False])
@pytest.mark.parametrize("lead", [(3, 5), (1,), (1, 1), (530,), (0, 4), (2, 1, 3)])
@pytest.mark.parametrize(("rows", "columns", "density"), MATRICES)
def test_product_and_its_gradients(
    rows: int, columns: int, density: float, lead: tuple[int, ...], by_feature: bool
) -> None:
    check_product(matrix_of(rows, columns, density), lead, by_feature)


@given(st.integers(1, 40), st.integers(1, 40), st.floats(0, 0.3), st.integers(1, 40), st.booleans(), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_random_products(rows: int, columns: int, density: float, n: int, by_feature: bool, seed: int) -> None:
    check_product(matrix_of(rows, columns, density, seed), (n,), by_feature)


def test_rows_of_every_length_and_more_tokens_than_a_block() -> None:
    """Nonzeros are added four at a time; threads take 2048 tokens at once."""
    matrix = normal(14, 14).tril(-1)
    check_product(matrix, (2, 1100), by_feature=True)
    check_product(matrix[:, :13].T.contiguous(), (2049,), by_feature=False)


def test_pattern_knows_rows_and_columns() -> None:
    matrix = matrix_of(20, 30, 0.1)
    pattern, values = sparse(matrix)
    rebuilt = torch.zeros_like(matrix).index_put(places_of(pattern), values.detach())
    assert rebuilt.equal(matrix)
    by_column = torch.zeros_like(matrix.T)
    counts = pattern.csc_indptr.diff().long()
    by_column[torch.arange(30).repeat_interleave(counts), pattern.csc_indices.long()] = values.detach()[
        pattern.csc_order
    ]
    assert by_column.T.equal(matrix)


@pytest.mark.parametrize("of_x", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("of_values", [torch.float32, torch.bfloat16])
def test_bfloat16_is_read_as_it_is(of_x: torch.dtype, of_values: torch.dtype) -> None:
    """Everything is computed in float32, and gradients come back in the dtypes of what they are for."""
    matrix = matrix_of(30, 50, 0.2).to(of_values).float()
    pattern, values = sparse(matrix)
    values = values.detach().to(of_values).requires_grad_()
    x, towards = normal(2, 9, 50, seed=2).to(of_x).requires_grad_(), normal(2, 9, 30, seed=3)
    y = pattern.multiply(x, values, torch.zeros(30))
    assert y.dtype == torch.float32
    torch.testing.assert_close(y, x.float() @ matrix.T, **CLOSE)
    d_x, d_values = torch.autograd.grad(y, (x, values), towards)
    assert (d_x.dtype, d_values.dtype) == (of_x, of_values)
    rough = {"rtol": 2**-7, "atol": 1e-3}
    torch.testing.assert_close(d_x, (towards @ matrix).to(of_x), **(CLOSE if of_x == torch.float32 else rough))
    whole = (towards.flatten(0, 1).T @ x.float().flatten(0, 1))[places_of(pattern)]
    torch.testing.assert_close(d_values, whole.to(of_values), **(CLOSE if of_values == torch.float32 else rough))
    rows = pattern.gather(torch.tensor([3, 3, 0]), values)
    assert rows.equal(matrix[[3, 3, 0]])


def test_gradients_that_nobody_wants() -> None:
    """Each of the three alone; without one for the values activations are not kept."""
    pattern, values = sparse(matrix_of(12, 9, 0.3))
    leaves = [normal(5, 9, seed=2), values.detach(), normal(12, seed=3)]
    for wanted in range(3):
        own = [leaf.clone().requires_grad_(i == wanted) for i, leaf in enumerate(leaves)]
        all_of = [leaf.clone().requires_grad_() for leaf in leaves]
        y = pattern.multiply(own[0], own[1], own[2])
        y.square().sum().backward()
        pattern.multiply(all_of[0], all_of[1], all_of[2]).square().sum().backward()
        for i, (one, other) in enumerate(zip(own, all_of, strict=True)):
            assert (one.grad is None) == (i != wanted)
            assert one.grad is None or one.grad.equal(other.grad)  # pyright: ignore
    with torch.no_grad():
        assert not pattern.multiply(leaves[0], values, leaves[2]).requires_grad


@pytest.mark.parametrize("lead", [(2, 70), (1, 1), (4,), (0, 4), (2, 3, 2)])
@pytest.mark.parametrize(("rows", "columns", "density"), [*MATRICES, (3, 90, 0.9)])
def test_rows_by_index_and_their_gradient(rows: int, columns: int, density: float, lead: tuple[int, ...]) -> None:
    matrix = matrix_of(rows, columns, density)
    pattern, values = sparse(matrix)
    tokens = torch.randint(rows, lead, generator=torch.Generator().manual_seed(5))
    towards = normal(*lead, columns, seed=6)
    matrix.requires_grad_()
    ours, twin = pattern.gather(tokens, values), F.embedding(tokens, matrix)
    assert ours.movedim(-1, 0).is_contiguous()
    assert ours.equal(twin)
    (own,), (expected,) = torch.autograd.grad(ours, values, towards), torch.autograd.grad(twin, matrix, towards)
    torch.testing.assert_close(own, expected[places_of(pattern)], rtol=1e-4, atol=1e-4)
    assert pattern.gather(tokens.flatten().flip(0).expand(2, -1), values).equal(
        matrix[tokens.flatten().flip(0)].expand(2, -1, -1)
    )


@pytest.mark.parametrize("token", [-1, 7, 2**40])
def test_tokens_outside_the_matrix_are_refused(token: int) -> None:
    """As the dense embedding does; a kernel would read memory that is not its own."""
    pattern, values = sparse(matrix_of(7, 5, 0.3))
    for rows in (lambda tokens: pattern.gather(tokens, values), lambda tokens: table_rows(tokens, normal(7, 5))):
        with pytest.raises(IndexError):
            rows(torch.tensor([[0, token]]))
        with pytest.raises(TypeError, match="whole numbers"):
            rows(torch.tensor([[0.5]]))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 150), st.integers(1, 150), st.integers(0, 3), st.booleans())
def test_rows_of_a_table(n: int, width: int, batch: int, is_long: bool) -> None:
    """Of any number of tokens and channels, and where the result goes past the caches."""
    table = normal(11, 64 * width if is_long else width)
    tokens = torch.randint(11, (batch, 16 * n if is_long else n))
    rows = table_rows(tokens, table)
    assert rows.equal(table[tokens])
    assert rows.movedim(-1, 0).is_contiguous()


def test_contract_of_rows_of_a_table() -> None:
    torch.library.opcheck(table_rows.op, (torch.randint(11, (2, 70)), normal(11, 30)))


def test_layouts() -> None:
    x = normal(2, 3, 5)
    turned = activations(features(x), (2, 3))
    assert turned.equal(x)
    assert is_feature_major(turned)
    assert not is_feature_major(x)
    assert features(turned).data_ptr() == turned.data_ptr()
    assert not any(map(is_feature_major, (normal(5), normal(1, 1, 5), turned[..., :1], turned[:, :2])))
    assert is_feature_major(turned + 1)
    assert features(turned[:, :2]).equal(features(x[:, :2]))


def test_operators_keep_the_contract_of_torch() -> None:
    pattern, values = sparse(matrix_of(12, 20, 0.2))
    places = pattern.indices, pattern.indptr, pattern.csc_indices, pattern.csc_indptr, pattern.csc_order
    bias, tokens = normal(12).requires_grad_(), torch.tensor([[0, 3], [3, 11]])
    for x in (normal(2, 3, 20), activations(normal(20, 6), (2, 3)), normal(2, 3, 20).bfloat16()):
        torch.library.opcheck(products.sparse_linear.op, (x.requires_grad_(), values, bias, *places))
    torch.library.opcheck(products.sparse_rows.op, (tokens, values, pattern.indices, pattern.indptr, 20))


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiles_as_one_graph(backend: str) -> None:
    table, first = sparse(matrix_of(12, 20, 0.2))
    pattern, second = sparse(matrix_of(9, 20, 0.3, seed=1))
    tokens, bias = torch.tensor([[0, 3, 5], [3, 11, 0]]), normal(9).requires_grad_()

    def work(first: Tensor, second: Tensor, bias: Tensor) -> Tensor:
        return pattern.multiply(2 * table.gather(tokens, first), second, bias).square().sum()

    leaves = first, second, bias
    torch._dynamo.reset()
    expected = work(*leaves)
    ours = torch.compile(work, backend=backend, fullgraph=True)(*leaves)
    torch.testing.assert_close(ours, expected)
    for one, other in zip(torch.autograd.grad(ours, leaves), torch.autograd.grad(expected, leaves), strict=True):
        torch.testing.assert_close(one, other)
