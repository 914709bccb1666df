"""Correspondence: what in one picture matches a region of the other.

The similarity of two pooled embeddings is a sum over pairs of places, M_zw = p_z·q_w /
(‖βⁱ‖‖βʲ‖) (Black et al. 2022, eq. 3). Summed over a region's places, its rows or columns
are a map of the other picture: (Σ_{z in region} p_z)·q_w, one matrix-vector product.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pairlens.rendering import Box
from pairlens_server.errors import InvalidParameterError
from pairlens_server.methods.base import Method
from pairlens_server.methods.parameters import Parameter, Profile
from pairlens_server.methods.similarity import (
    BiasMode,
    FoldedParts,
    PairMaps,
    Redistribution,
)
from pairlens_server.recording.activations import Activation
from pairlens_server.recording.facts import ModelFacts
from pairlens_server.recording.primitives import Embedding

_PARTS = FoldedParts(Profile.STRICT, Redistribution.NONE, BiasMode.IN_TOKENS)


@dataclass(frozen=True)
class Correspondence(Method):
    """Rows, or columns, of the match matrix, summed over a region.

    Attributes:
        query_region: In original pixels of the query, or None.
        candidate_region: In original pixels of the candidate, or None.
    """

    name: ClassVar[str] = "correspondence"
    revision: ClassVar[int] = 1
    summary: ClassVar[str] = "what in the other picture matches a region of this one"
    paper: ClassVar[str] = "Black et al., WACV 2022 Workshops, eq. 3"

    query_region: Box | None = None
    candidate_region: Box | None = None

    @classmethod
    def refusal(cls, facts: ModelFacts) -> str:
        """See `Method.refusal`."""
        return facts.refusals.parts

    @classmethod
    def parameters(cls, facts: ModelFacts) -> tuple[Parameter, ...]:
        """See `Method.parameters`."""
        return (
            Parameter("query_region", "box", None, "region of the query, in original pixels"),
            Parameter("candidate_region", "box", None, "region of the candidate instead"),
        )

    def resolve(self, facts: ModelFacts) -> Correspondence:
        """See `Method.resolve`."""
        if (self.query_region is None) == (self.candidate_region is None):
            raise InvalidParameterError(
                "give either query_region or candidate_region", field="method.correspondence"
            )
        for name in ("query_region", "candidate_region"):
            box: Box | None = getattr(self, name)
            if box is not None and not (box.left < box.right and box.top < box.bottom):
                raise InvalidParameterError(
                    f"{name} {box.left:g},{box.top:g} to {box.right:g},{box.bottom:g} is empty; "
                    "left is less than right and top less than bottom",
                    field=f"method.correspondence.{name}",
                )
        return self

    def pair_needs(self) -> tuple[Activation, ...]:
        """Activations of either picture."""
        return (_PARTS, Embedding())

    def maps(
        self,
        query: Mapping[Activation, Tensor],
        candidates: Mapping[Activation, Tensor],
        facts: ModelFacts,
        weights: Tensor,
    ) -> PairMaps:
        """What matches the region, for one query and M candidates.

        Args:
            query: What `pair_needs` names, of the query.
            candidates: The same of M candidates, batched.
            facts: Of the model.
            weights: [M, cells], how much of each cell the region covers, in [0, 1]: of the
                query, the same in every row, or of each candidate.
        """
        unit = 1 / (query[Embedding()].norm() * candidates[Embedding()].norm(dim=-1))  # [M]
        mine, others = query[_PARTS][:-1], candidates[_PARTS][:, :-1]
        if self.query_region is not None:
            region = weights @ mine  # [M, C]
            candidate_maps = torch.einsum("mnc,mc->mn", others, region)
            query_maps = weights * (others.sum(dim=1) @ mine.mT)
        else:
            region = torch.einsum("mn,mnc->mc", weights, others)
            query_maps = region @ mine.mT
            candidate_maps = weights * (others @ mine.sum(dim=0))
        grid = (-1, facts.layout.rows, facts.layout.columns)
        nothing = torch.zeros_like(unit)
        return PairMaps(
            similarity=candidates[Embedding()] @ query[Embedding()] * unit,
            query_maps=(query_maps * unit[:, None]).reshape(grid),
            candidate_maps=(candidate_maps * unit[:, None]).reshape(grid),
            query_bias=nothing,
            candidate_bias=nothing,
            query_prefix=nothing,
            candidate_prefix=nothing,
            match=None,
        )
