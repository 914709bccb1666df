"""The primitive activations: what a recorder takes from a pass.

Tensors are float32 and batched over pictures in the first dimension; the shapes
below leave that dimension out. Blocks are those of `ModelFacts.blocks`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from pairlens_server.recording.activations import Activation
from pairlens_server.recording.attention import HeadFusion
from pairlens_server.recording.facts import ModelFacts
from pairlens_server.recording.targets import ScoreTarget

_FLOAT32 = 4


def _graph_width(facts: ModelFacts) -> int:
    """Numbers that autograd keeps of a token and block, about: 12 vectors of its width."""
    return 3 * max(facts.hidden_units, default=0)


class GradientRule(str, Enum):
    """Which gradient is taken."""

    PLAIN = "plain"
    # LibraGrad: softmax, scale of norms and gates of activations count as constants.
    LIBRA = "libra"


@dataclass(frozen=True)
class ReadoutAttention(Activation):
    """[heads, tokens]: attention of the readout to every token, mean over readout tokens.

    The class token's row of the post-softmax attention, or the mean of the rows of
    all tokens that the head reads. Rows sum to 1.
    """

    block: int


@dataclass(frozen=True)
class ReadoutScores(Activation):
    """[heads, tokens]: the same of the scores before the softmax."""

    block: int


@dataclass(frozen=True)
class ReadoutLogAttention(Activation):
    """[heads, tokens]: the same of the logarithm of attention."""

    block: int


@dataclass(frozen=True)
class KeyNorms(Activation):
    """[1 + heads, tokens]: length of the mean over heads of the keys, then of each head's."""

    block: int


@dataclass(frozen=True)
class FusedAttention(Activation):
    """[tokens, tokens]: post-softmax attention fused over heads; rows are output tokens.

    Tokens that have not joined yet at a block (ConViT's class token) have zeros.
    """

    block: int
    fusion: HeadFusion = HeadFusion.MEAN

    def scratch_bytes(self, facts: ModelFacts) -> int:
        """See `Activation.scratch_bytes`."""
        return _FLOAT32 * facts.layout.tokens**2


@dataclass(frozen=True)
class AttentionMatrix(Activation):
    """[heads, tokens, tokens]: post-softmax attention; rows are output tokens."""

    block: int

    def scratch_bytes(self, facts: ModelFacts) -> int:
        """See `Activation.scratch_bytes`."""
        return _FLOAT32 * facts.heads * facts.layout.tokens**2


@dataclass(frozen=True)
class GradientWeightedAttention(Activation):
    """[tokens, tokens]: mean over heads of max(0, ∇A ⊙ A) (Chefer et al., ICCV 2021, eq. 5)."""

    block: int
    target: ScoreTarget

    def scratch_bytes(self, facts: ModelFacts) -> int:
        """See `Activation.scratch_bytes`: the matrix, and the block's graph."""
        return _FLOAT32 * facts.layout.tokens * (facts.layout.tokens + _graph_width(facts))


@dataclass(frozen=True)
class LayerScoreGradient(Activation):
    """[tokens]: mean over heads and rows of max(0, ∂sˡ/∂A) (LeGrad).

    sˡ is the target's score of the mean of the tokens that the block gives out, read by
    the model's own norm and head. The predicted class would be each block's own.
    """

    block: int
    target: ScoreTarget


@dataclass(frozen=True)
class TransformerAttributionRow(Activation):
    """[tokens + 1]: TIBAV's rollout row of the readout; the last value is the drift."""

    exact = True

    start_block: int
    target: ScoreTarget
    single_precision: bool

    def scratch_bytes(self, facts: ModelFacts) -> int:
        """See `Activation.scratch_bytes`: what each block gave out, step by step."""
        width = 2 * facts.heads * facts.layout.tokens + 2 * _graph_width(facts)
        value = _FLOAT32 if self.single_precision else 2 * _FLOAT32
        return value * facts.blocks * facts.layout.tokens * width


@dataclass(frozen=True)
class Logits(Activation):
    """[classes]: output of the class head."""

    exact = True


@dataclass(frozen=True)
class Embedding(Activation):
    """[embedding_size]: pooled features after the projection, not normalised."""

    exact = True


@dataclass(frozen=True)
class PooledParts(Activation):
    """[tokens, embedding_size]: what each token adds to the embedding.

    Sums over tokens to the embedding less `ModelFacts.embedding_constant`, exactly:
    tokens through the projection over their number for mean pooling, winners only
    for max pooling. Zero on tokens that are not pooled.
    """


@dataclass(frozen=True)
class ProjectedTokens(Activation):
    """[tokens, embedding_size]: each token read alone, as if it were the pooled one."""


@dataclass(frozen=True)
class FeatureMap(Activation):
    """[channels, rows, columns]: output of a module, prefix tokens dropped."""

    layer: str


@dataclass(frozen=True)
class FeatureGradient(Activation):
    """[channels, rows, columns]: gradient of the target's score by the FeatureMap."""

    layer: str
    target: ScoreTarget
    rule: GradientRule = GradientRule.PLAIN


@dataclass(frozen=True)
class GradientContributions(Activation):
    """[cells + 2]: FullGrad's sums by cell of the model's grid, off the grid, and the score.

    The last value is the target's score; signed sums over all places meet it under LIBRA.
    """

    # The two are subtracted, to say how well they meet.
    exact = True

    target: ScoreTarget
    rule: GradientRule
    absolute: bool


@dataclass(frozen=True)
class HiddenActivations(Activation):
    """[units, rows, columns]: hidden layer of a block's MLP after its activation function."""

    block: int

    def scratch_bytes(self, facts: ModelFacts) -> int:
        """See `Activation.scratch_bytes`."""
        grid = facts.layers[facts.hidden_layers[self.block]]
        return _FLOAT32 * facts.hidden_units[self.block] * grid.rows * grid.columns


@dataclass(frozen=True)
class KeypointCounts(Activation):
    """[cells]: SIFT keypoints of the model's input in each patch."""

    exact = True

    dedupe: bool


Gradient = (
    GradientWeightedAttention
    | LayerScoreGradient
    | TransformerAttributionRow
    | FeatureGradient
    | GradientContributions
)
"""Activations that need a graph."""
