"""Sparse products, forward and backward: the only room that knows how they are computed.

An `Adjacency` is a structure: row = destination, entries = in-neighbours, each of a constant weight where there are
any. Every sum runs along rows of a CSR matrix or of its transpose, in a fixed order, so results do not depend on the
number of threads. No tensor of shape (E, channels) is ever made. Shapes: V rows, U columns (V = U in a whole graph), E
entries, H heads, C channels.
"""

from __future__ import annotations

import warnings
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# The CSR layout has been "in beta" for years, and its invariants hold by construction: no user needs to read of it.
warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta", category=UserWarning)
warnings.filterwarnings("ignore", message="Sparse invariant checks are implicitly disabled", category=UserWarning)


class Adjacency:
    """Structure of a sparse matrix, with what is derived from it computed once and kept.

    Rows may be a piece of the columns' nodes: row v is column `offset` + v. Then the columns' degrees must be given,
    for GCN's scale needs them and only the rows' can be counted.

    Shapes: indptr (V + 1,), indices (E,), both integer; entries of a row are distinct. looped_degrees (U,) float32: the
    in-degree of each column's node with one self-loop. dtype: of degrees, and of the operators made of them. symmetric:
    whether each entry has its reverse; None: not known. weight (E,) of `dtype`: of each entry, not negative; None: all
    are 1. Where there are weights, a degree is the sum of a row's, and a self-loop that is not there weighs 1.
    edge_attr (E, D): features of each entry, for modules that take them; nothing that is derived has them.
    """

    def __init__(
        self,
        indptr: Tensor,
        indices: Tensor,
        columns: int | None = None,
        offset: int = 0,
        looped_degrees: Tensor | None = None,
        dtype: torch.dtype = torch.float32,
        symmetric: bool | None = None,
        weight: Tensor | None = None,
        edge_attr: Tensor | None = None,
    ) -> None:
        self.indptr, self.indices, self.offset, self.dtype = indptr, indices, offset, dtype
        self.symmetric, self.weight, self.edge_attr = symmetric, weight, edge_attr
        self.columns = len(indptr) - 1 if columns is None else columns
        self._looped_degrees = looped_degrees

    @property
    def nodes(self) -> int:
        """V."""
        return len(self.indptr) - 1

    def own(self, x_UC: Tensor) -> Tensor:
        """Of what columns have, what rows have: (V, C)."""
        return x_UC if self.nodes == self.columns else x_UC[self.offset : self.offset + self.nodes]

    @cached_property
    def row(self) -> Tensor:
        """Destination of each entry, (E,)."""
        ids = torch.arange(self.nodes, device=self.indptr.device, dtype=self.indices.dtype)
        return ids.repeat_interleave(self.indptr.diff(), output_size=len(self.indices))

    @cached_property
    def edge_index(self) -> Tensor:
        """Source and destination of each entry, (2, E) int64, as PyG has edges."""
        return torch.stack([self.indices.long(), self.row.long() + self.offset])

    @cached_property
    def values(self) -> Tensor:
        """What each entry weighs, (E,)."""
        if self.weight is not None:
            return self.weight
        return torch.ones(len(self.indices), dtype=self.dtype, device=self.indices.device)

    @cached_property
    def matrix(self) -> Tensor:
        """The sparse CSR matrix (V, U) of weights, or ones, with int64 indices, as PyG has an adjacency's transpose."""
        ends, columns = self.indptr.long(), self.indices.long()
        size = self.nodes, self.columns
        return torch.sparse_csr_tensor(ends, columns, self.values, size, check_invariants=False)

    @cached_property
    def degree(self) -> Tensor:
        """In-degree of each node, (V,): how many entries it has, or the sum of their weights."""
        if self.weight is None:
            return self.indptr.diff().to(self.dtype)
        return _sum_rows(self, self.weight[:, None])[:, 0]

    @cached_property
    def permutation(self) -> Tensor:
        """Where each entry of the transpose stands in this matrix, (E,)."""
        return torch.argsort(self.indices, stable=True)

    @cached_property
    def transpose(self) -> Adjacency:
        """Row = source, entries = out-neighbours; its entry e is this matrix's entry permutation[e]."""
        return Adjacency(
            _count_entries(self.indices, self.indptr, self.columns), self.row[self.permutation], self.nodes
        )

    @cached_property
    def with_self_loops(self) -> Adjacency:
        """The same with exactly one self-loop a node, as GCN and GAT want it; one that is there keeps its weight."""
        keep = self.row + self.offset != self.indices
        ids = torch.arange(self.nodes, device=self.indices.device, dtype=self.indices.dtype)
        row = torch.cat([self.row[keep], ids])
        column = torch.cat([self.indices[keep], ids + self.offset])
        order = torch.argsort(row, stable=True)
        indptr = _count_entries(row, self.indptr, self.nodes)
        weight = None
        if self.weight is not None:
            loops = self.weight.new_ones(self.nodes)
            loops[self.row[~keep]] = self.weight[~keep]
            weight = torch.cat([self.weight[keep], loops])[order]
        return Adjacency(indptr, column[order], self.columns, self.offset, dtype=self.dtype, weight=weight)

    @cached_property
    def mean(self) -> Operator:
        """D^-1 A: the mean over in-neighbours, by weights where there are any; zero where these sum up to zero.

        Source: arXiv 1706.02216, algorithm 1; of weights our own.
        """
        # A structure of its own: one that holds an operator that holds it would live until Python looks for cycles.
        structure = Adjacency(self.indptr, self.indices, self.columns, self.offset)
        if self.weight is not None:
            total = self.degree
            return Operator(structure, self.weight / total.masked_fill(total == 0.0, 1.0)[self.row])
        return Operator(structure, 1.0 / self.degree.clamp(min=1.0)[self.row])

    @cached_property
    def gcn(self) -> Operator:
        """(D+I)^-1/2 (A+I) (D+I)^-1/2 with in-degrees D (arXiv 1609.02907, equation 2)."""
        return Operator(*self.gcn_entries)

    @property
    def gcn_entries(self) -> tuple[Adjacency, Tensor]:
        """That matrix's structure, and the values of its entries.

        With weights as PyG's `gcn_norm` has it: a self-loop that is there is kept, a degree of zero scales by zero.
        """
        looped = self.with_self_loops
        degrees = looped.degree if self._looped_degrees is None else self._looped_degrees
        if len(degrees) != self.columns:
            raise ValueError(f"GCN needs the degrees of {self.columns} columns; {len(degrees)} are known")
        scale = degrees.rsqrt()
        if looped.weight is not None:
            scale = scale.masked_fill(degrees == 0.0, 0.0)
            return looped, self.own(scale)[looped.row] * looped.weight * scale[looped.indices]
        return looped, self.own(scale)[looped.row] * scale[looped.indices]

    def to(self, device: torch.device) -> Adjacency:
        """The same structure on `device`."""
        if self.indptr.device == device:
            return self
        degrees = self._looped_degrees
        return Adjacency(
            self.indptr.to(device, non_blocking=True),
            self.indices.to(device, non_blocking=True),
            self.columns,
            self.offset,
            None if degrees is None else degrees.to(device, non_blocking=True),
            self.dtype,
            self.symmetric,
            None if self.weight is None else self.weight.to(device, non_blocking=True),
            None if self.edge_attr is None else self.edge_attr.to(device, non_blocking=True),
        )


class Operator:
    """A constant sparse matrix that multiplies dense ones, differentiably: its transpose is kept for the backward.

    values (E,): of the entries of the adjacency, whose weights have no part in it.
    """

    def __init__(self, adjacency: Adjacency, values: Tensor) -> None:
        self.adjacency = adjacency
        self.values = values

    @cached_property
    def matrix(self) -> Tensor:
        """The (V, U) sparse CSR matrix."""
        return _make_csr(self.adjacency, self.values)

    @cached_property
    def transpose(self) -> Tensor:
        """The (U, V) sparse CSR transpose."""
        return _make_csr(self.adjacency.transpose, self.values[self.adjacency.permutation])

    def __matmul__(self, x_UC: Tensor) -> Tensor:
        """The product with x (U, C), shape (V, C)."""
        product: Tensor = _Product.apply(self, x_UC)  # type: ignore[no-untyped-call]
        return product


class _Product(torch.autograd.Function):
    """A @ x with dx = A^T @ dy; A is a constant."""

    @staticmethod
    def forward(ctx: Any, operator: Operator, x: Tensor) -> Tensor:
        ctx.operator = operator
        return operator.matrix @ x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:
        return None, ctx.operator.transpose @ grad.contiguous()


def edge_scores(adjacency: Adjacency, source_UH: Tensor, destination_VH: Tensor) -> Tensor:
    """score[e, h] = source[column(e), h] + destination[row(e), h], shape (E, H)."""
    scores: Tensor = _EdgeScores.apply(adjacency, source_UH, destination_VH)  # type: ignore[no-untyped-call]
    return scores


class _EdgeScores(torch.autograd.Function):
    """A gather whose backward sums along rows and columns in a fixed order, where autograd's would scatter."""

    @staticmethod
    def forward(ctx: Any, adjacency: Adjacency, source: Tensor, destination: Tensor) -> Tensor:
        ctx.adjacency = adjacency
        return source[adjacency.indices] + destination[adjacency.row]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, Tensor]:
        adjacency: Adjacency = ctx.adjacency
        by_source = _sum_rows(adjacency.transpose, grad[adjacency.permutation])
        return None, by_source, _sum_rows(adjacency, grad)


def edge_softmax(adjacency: Adjacency, scores_EH: Tensor) -> Tensor:
    """Softmax of the scores over each node's in-edges, shape (E, H). Every row needs an entry (`with_self_loops`)."""
    weights: Tensor = _EdgeSoftmax.apply(adjacency, scores_EH)  # type: ignore[no-untyped-call]
    return weights


class _EdgeSoftmax(torch.autograd.Function):
    """p = softmax(s) along rows; ds = p * (dp - sum over the row of p * dp)."""

    @staticmethod
    def forward(ctx: Any, adjacency: Adjacency, scores: Tensor) -> Tensor:
        top = torch.segment_reduce(scores, "max", offsets=adjacency.indptr.long(), axis=0)
        weights = (scores - top[adjacency.row]).exp_()
        weights /= _sum_rows(adjacency, weights)[adjacency.row]
        ctx.adjacency = adjacency
        ctx.save_for_backward(weights)
        return weights

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:
        (weights,) = ctx.saved_tensors
        weighted = weights * grad
        return None, weighted - weights * _sum_rows(ctx.adjacency, weighted)[ctx.adjacency.row]


def weighted_sum(adjacency: Adjacency, weights_EH: Tensor, x_UHC: Tensor) -> Tensor:
    """out[v, h] = sum over in-edges e of v of weights[e, h] * x[source(e), h], shape (V, H, C)."""
    heads = [
        _WeightedSum.apply(adjacency, weights_EH[:, h], x_UHC[:, h])  # type: ignore[no-untyped-call]
        for h in range(x_UHC.shape[1])
    ]
    return torch.stack(heads, 1)


class _WeightedSum(torch.autograd.Function):
    """One head: y = A(w) @ x; dx = A(w)^T @ dy; dw[e] = <dy[row(e)], x[column(e)]>, a sampled dense product."""

    @staticmethod
    def forward(ctx: Any, adjacency: Adjacency, weights: Tensor, x: Tensor) -> Tensor:
        weights, x = weights.contiguous(), x.contiguous()
        ctx.adjacency = adjacency
        ctx.save_for_backward(weights, x)
        return _make_csr(adjacency, weights) @ x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, Tensor]:
        weights, x = ctx.saved_tensors
        adjacency: Adjacency = ctx.adjacency
        grad = grad.contiguous()
        transpose = _make_csr(adjacency.transpose, weights[adjacency.permutation])
        sampled = torch.sparse.sampled_addmm(_make_csr(adjacency, torch.zeros_like(weights)), grad, x.t())
        return None, sampled.values(), transpose @ grad


def _count_entries(row: Tensor, like: Tensor, rows: int) -> Tensor:
    """Where rows start, (rows + 1,) of the type of `like`, given the row of each entry."""
    indptr = like.new_zeros(rows + 1)
    torch.cumsum(torch.bincount(row, minlength=rows), 0, out=indptr[1:])
    return indptr


def _sum_rows(adjacency: Adjacency, values_EH: Tensor) -> Tensor:
    """Sums of each row's values, (V, H)."""
    return torch.segment_reduce(values_EH.contiguous(), "sum", offsets=adjacency.indptr.long(), axis=0, initial=0)


def _make_csr(adjacency: Adjacency, values: Tensor) -> Tensor:
    return torch.sparse_csr_tensor(
        adjacency.indptr, adjacency.indices, values, (adjacency.nodes, adjacency.columns), check_invariants=False
    )
