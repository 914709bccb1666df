"""Which places of two pictures made up the cosine similarity of their embeddings.

Black et al. 2022 (mean-pooled ViTs) and Stylianou et al. 2019 (CNNs). With
embeddings βⁱ = Σ_x pⁱ_x + c and s = βⁱ·βʲ / (‖βⁱ‖‖βʲ‖), place x of picture i owns
γ_x = pⁱ_x·βʲ / (‖βⁱ‖‖βʲ‖), and Σ_x γ_x + c·βʲ / (‖βⁱ‖‖βʲ‖) = s exactly.

Redistribution by rollout is linear in βʲ, so it is folded into the parts once per
picture: Rᵀγ = (Rᵀp)βʲ / (‖βⁱ‖‖βʲ‖). A map against any partner is then one
matrix-vector product on two cached tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import ClassVar

import torch
from torch import Tensor

from pairlens_server.errors import InvalidParameterError, MethodUnsupportedError
from pairlens_server.methods.base import ExplanationMethod, Findings
from pairlens_server.methods.parameters import Parameter, Profile, choices
from pairlens_server.methods.rollout import rollout_matrix
from pairlens_server.recording.activations import Activation, Derived
from pairlens_server.recording.attention import HeadFusion
from pairlens_server.recording.facts import ModelFacts
from pairlens_server.recording.primitives import Embedding, FusedAttention, PooledParts
from pairlens_server.recording.targets import ScoreTarget, Similarity


class Redistribution(str, Enum):
    """How parts move from output tokens back to input patches."""

    NONE = "none"
    ROLLOUT = "rollout"


class BiasMode(str, Enum):
    """Where the embedding's constant part goes."""

    SEPARATE = "separate"  # in no cell, reported beside the map
    IN_TOKENS = "in_tokens"  # spread evenly over the pooled tokens, as the authors' code does


def spread_constant(parts: Tensor, facts: ModelFacts) -> Tensor:
    """Add the embedding's constant, in equal shares, to the pooled tokens: [B, T, C]."""
    spread = parts.clone()
    pooled = list(facts.pooled)
    spread[:, pooled] += facts.embedding_constant.to(parts.device) / len(pooled)
    return spread


def redistribute(parts: Tensor, attentions: list[Tensor], profile: Profile) -> Tensor:
    """Mix parts by rollout: [B, T, C] to [B, T, C].

    STRICT: Rᵀp with R = S_L ··· S_1; rows of R sum to 1, so the sum over tokens stays.
    REFERENCE: R p (XPV's code; averages output tokens by input weights, the sum changes).
    PAPER: R p with R = S_1 ··· S_L (Black et al. 2022, eq. 5).
    """
    rollout = rollout_matrix(attentions, first_block_left=profile is Profile.PAPER)
    return (rollout.mT if profile is Profile.STRICT else rollout) @ parts


@dataclass(frozen=True)
class FoldedParts(Derived):
    """[cells + 1, embedding_size]: parts after redistribution; the last row is the prefix's sum."""

    profile: Profile
    redistribution: Redistribution
    bias_mode: BiasMode
    fusion: HeadFusion = HeadFusion.MEAN

    def inputs(self, facts: ModelFacts) -> tuple[Activation, ...]:
        """See `Derived.inputs`."""
        if self.redistribution is Redistribution.NONE:
            return (PooledParts(),)
        return (PooledParts(), *self._attentions(facts))

    def _attentions(self, facts: ModelFacts) -> tuple[FusedAttention, ...]:
        return tuple(FusedAttention(block, self.fusion) for block in range(facts.blocks))

    def derive(self, recorded: Mapping[Activation, Tensor], facts: ModelFacts) -> Tensor:
        """See `Derived.derive`."""
        parts = recorded[PooledParts()]
        if self.bias_mode is BiasMode.IN_TOKENS:
            parts = spread_constant(parts, facts)
        if self.redistribution is Redistribution.ROLLOUT:
            attentions = [recorded[a] for a in self._attentions(facts)]
            parts = redistribute(parts, attentions, self.profile)
        prefix = facts.layout.prefix
        return torch.cat([parts[:, prefix:], parts[:, :prefix].sum(dim=1, keepdim=True)], dim=1)


@dataclass(frozen=True)
class PairMaps:
    """One query against M candidates, float32.

    Attributes:
        similarity: [M], cosine in [-1, 1]; NaN where an embedding is zero.
        query_maps, candidate_maps: [M, rows, columns].
        query_bias, candidate_bias: [M], share of the constant part under SEPARATE.
        query_prefix, candidate_prefix: [M], share on tokens that are no patch.
        match: [M, cells, cells] of query by candidate, or None.
    """

    similarity: Tensor
    query_maps: Tensor
    candidate_maps: Tensor
    query_bias: Tensor
    candidate_bias: Tensor
    query_prefix: Tensor
    candidate_prefix: Tensor
    match: Tensor | None


@dataclass(frozen=True)
class PooledDecomposition(ExplanationMethod):
    """Cosine similarity split over the places that were pooled.

    In Explain, of the summed similarity to all pictures of the target: raw maps are linear
    in the partner's unit embedding, so one map is the sum of all pair maps (Black et al.
    2022, section 4.2).

    Attributes:
        profile: See `redistribute`; without rollout the three agree.
        redistribution: None for NONE under STRICT; under the other profiles for ROLLOUT, as the
            authors do, where the model has attention.
        bias_mode: None for SEPARATE under STRICT, else IN_TOKENS.
        match_matrix: Also compute what each pair of places owns; of pairs alone.
        fusion: Of ROLLOUT: how heads become one matrix.
    """

    name: ClassVar[str] = "pooled_decomposition"
    revision: ClassVar[int] = 1
    summary: ClassVar[str] = "parts of the cosine similarity owed to each region, which sum to it"
    paper: ClassVar[str] = "Black et al., WACV 2022 Workshops; Stylianou et al., WACV 2019"
    takes_similarity: ClassVar[bool] = True

    profile: Profile = Profile.STRICT
    redistribution: Redistribution | None = None
    bias_mode: BiasMode | None = None
    match_matrix: bool = False
    fusion: HeadFusion = HeadFusion.MEAN

    @classmethod
    def refusal(cls, facts: ModelFacts) -> str:
        """See `Method.refusal`."""
        return facts.refusals.parts

    @classmethod
    def forward_passes(cls, facts: ModelFacts) -> float:
        """See `Method.forward_passes`."""
        return 1.0

    @classmethod
    def parameters(cls, facts: ModelFacts) -> tuple[Parameter, ...]:
        """See `Method.parameters`."""
        rolled = not facts.refusals.matrix
        return (
            Parameter(
                "profile",
                "enum",
                Profile.STRICT,
                "strict: maps sum to the similarity; reference: the authors' code; "
                "paper: the printed formula",
                choices=choices(Profile),
            ),
            Parameter(
                "redistribution",
                "enum",
                None,
                "how parts move back to input patches; unset: none under strict, else rollout"
                if rolled
                else "how parts move back to input patches; unset: none",
                choices=choices(Redistribution) if rolled else ("none",),
            ),
            Parameter(
                "bias_mode",
                "enum",
                None,
                "where the embedding's constant part goes; unset: separate under strict, "
                "else in_tokens",
                choices=choices(BiasMode),
            ),
            Parameter("match_matrix", "bool", False, "also return the match matrix, of a pair"),
            Parameter(
                "fusion",
                "enum",
                HeadFusion.MEAN,
                "of rollout: how heads become one matrix",
                choices=choices(HeadFusion),
            ),
        )

    def resolve(self, facts: ModelFacts) -> PooledDecomposition:
        """See `Method.resolve`."""
        resolved = super().resolve(facts)
        if resolved.redistribution is Redistribution.ROLLOUT and facts.refusals.matrix:
            raise MethodUnsupportedError(
                f"no rollout on this model: {facts.refusals.matrix}; use redistribution none",
                field="method.pooled_decomposition.redistribution",
            )
        strict = self.profile is Profile.STRICT
        bias_mode, redistribution = resolved.bias_mode, resolved.redistribution
        if bias_mode is None:
            bias_mode = BiasMode.SEPARATE if strict else BiasMode.IN_TOKENS
        if redistribution is None:
            # Rollout hides the partner: docs/faithfulness.md has the numbers.
            unrolled = strict or bool(facts.refusals.matrix)
            redistribution = Redistribution.NONE if unrolled else Redistribution.ROLLOUT
        return replace(resolved, bias_mode=bias_mode, redistribution=redistribution)

    @property
    def folded(self) -> FoldedParts:
        """The activation that this resolved method's maps are made of."""
        assert self.redistribution is not None
        assert self.bias_mode is not None
        # Without rollout the profiles agree, and so share their cache entries.
        rolled = self.redistribution is Redistribution.ROLLOUT
        profile = self.profile if rolled else Profile.STRICT
        fusion = self.fusion if rolled else HeadFusion.MEAN
        return FoldedParts(profile, self.redistribution, self.bias_mode, fusion)

    @property
    def unfolded(self) -> FoldedParts:
        """The parts before redistribution, which the match matrix is made of."""
        return replace(
            self.folded,
            redistribution=Redistribution.NONE,
            profile=Profile.STRICT,
            fusion=HeadFusion.MEAN,
        )

    def needs(self, facts: ModelFacts, target: ScoreTarget | None) -> tuple[Activation, ...]:
        """See `ExplanationMethod.needs`."""
        return (self.folded, Embedding())

    def check_alone(self) -> None:
        """Refuse what only a pair has.

        Raises:
            InvalidParameterError: A match matrix is asked for.
        """
        if self.match_matrix:
            raise InvalidParameterError(
                "a match matrix is of a pair; ask PairSimilarity",
                field="method.pooled_decomposition.match_matrix",
            )

    def explain(
        self,
        recorded: Mapping[Activation, Tensor],
        facts: ModelFacts,
        target: ScoreTarget | None,
    ) -> Findings:
        """See `ExplanationMethod.explain`; signed, in units of the similarity."""
        assert isinstance(target, Similarity)
        along = target.vector / recorded[Embedding()].norm()
        shares = recorded[self.folded] @ along
        separate = self.bias_mode is BiasMode.SEPARATE
        return Findings(
            shares[:-1].reshape(facts.layout.rows, facts.layout.columns),
            bias_share=float(facts.embedding_constant @ along) if separate else 0.0,
            prefix_share=float(shares[-1]),
        )

    def pair_needs(self) -> tuple[Activation, ...]:
        """Activations of either picture of a pair; call on a resolved method."""
        wanted: tuple[Activation, ...] = (self.folded, Embedding())
        return (*wanted, self.unfolded) if self.match_matrix else wanted

    def maps(
        self,
        query: Mapping[Activation, Tensor],
        candidates: Mapping[Activation, Tensor],
        facts: ModelFacts,
    ) -> PairMaps:
        """Split the similarity of one query and M candidates.

        Args:
            query: What `needs` names, of the query, without a batch dimension.
            candidates: The same of M candidates, batched.
            facts: Of the model.
        """
        embedding, embeddings = query[Embedding()], candidates[Embedding()]
        unit = 1 / (embedding.norm() * embeddings.norm(dim=-1))  # [M]
        partner_of_query = embeddings * unit[:, None]  # [M, C]
        partner_of_candidates = embedding * unit[:, None]  # [M, C]
        query_shares = partner_of_query @ query[self.folded].mT  # [M, cells + 1]
        candidate_shares = torch.einsum(
            "mnc,mc->mn", candidates[self.folded], partner_of_candidates
        )
        constant = facts.embedding_constant
        if self.bias_mode is not BiasMode.SEPARATE:
            constant = torch.zeros_like(constant)
        match = None
        if self.match_matrix:
            places = query[self.unfolded][:-1]
            others = candidates[self.unfolded][:, :-1]
            match = places @ others.mT * unit[:, None, None]
        grid = (-1, facts.layout.rows, facts.layout.columns)
        return PairMaps(
            similarity=partner_of_query @ embedding,
            query_maps=query_shares[:, :-1].reshape(grid),
            candidate_maps=candidate_shares[:, :-1].reshape(grid),
            query_bias=partner_of_query @ constant,
            candidate_bias=partner_of_candidates @ constant,
            query_prefix=query_shares[:, -1],
            candidate_prefix=candidate_shares[:, -1],
            match=match,
        )
