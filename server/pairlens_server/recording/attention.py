"""Attention beside a fused forward pass, or in its place.

timm computes attention with a fused kernel that never holds the matrix. A reading
keeps the queries and keys that the kernel was given, and recomputes from them only
what a method needs: a class-token row costs 0.01 % of a forward pass of ViT-B/16, the
head mean of all blocks 2 % of its operations (`2·L·N²·D` of `L·(24·N·D² + 4·N²·D)`).
Where whole matrices are wanted and nothing else, and the kernel is no faster than its parts, as on
the CPU, the reading takes the kernel's place and gives both: rollout took 1.01 to 1.03 forward
passes then, and 1.10 beside the kernel, where weights are multiplied by torch's own library.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from enum import Enum

import torch
from torch import Tensor


class HeadFusion(str, Enum):
    """How heads become one matrix."""

    MEAN = "mean"
    MAX = "max"
    MIN = "min"


def _take(tensor: Tensor, pictures: Sequence[int]) -> Tensor:
    """Rows of a batch, without a copy when they are all of it (pictures ascend)."""
    return tensor if len(pictures) == len(tensor) else tensor[list(pictures)]


class AttentionReading(ABC):
    """One attention layer of a pass, as its softmax saw it.

    Attributes:
        keys: [B, heads, T, head_dim].
        values: [B, heads, T, head_dim].
    """

    keys: Tensor
    values: Tensor

    @property
    def heads(self) -> int:
        """Attention heads."""
        return int(self.values.shape[1])

    @abstractmethod
    def scores(self, head: int, rows: Sequence[int] | None, pictures: Sequence[int]) -> Tensor:
        """Scores before the softmax: float32 [len(pictures), rows, T]; all rows for None."""

    def weights(self, head: int, rows: Sequence[int] | None, pictures: Sequence[int]) -> Tensor:
        """Attention after the softmax: float32 [len(pictures), rows, T]; rows sum to 1."""
        return torch.softmax(self.scores(head, rows, pictures), dim=-1)

    def log_weights(self, head: int, rows: Sequence[int] | None, pictures: Sequence[int]) -> Tensor:
        """Logarithm of `weights`, finite where they underflow."""
        return torch.log_softmax(self.scores(head, rows, pictures), dim=-1)

    # Head by head everywhere below: holding all heads at once costs heads times the
    # memory, and the matrix of one head stays in the cache between product and softmax.

    def _readout(
        self,
        rows_of: Callable[[int, Sequence[int] | None, Sequence[int]], Tensor],
        readout: Sequence[int],
        pictures: Sequence[int],
    ) -> Tensor:
        heads = range(self.heads)
        return torch.stack([rows_of(h, readout, pictures).mean(dim=1) for h in heads], dim=1)

    def readout_weights(self, readout: Sequence[int], pictures: Sequence[int]) -> Tensor:
        """Mean over readout tokens of their rows: float32 [len(pictures), heads, T]."""
        return self._readout(self.weights, readout, pictures)

    def readout_scores(self, readout: Sequence[int], pictures: Sequence[int]) -> Tensor:
        """The same of the scores before the softmax."""
        return self._readout(self.scores, readout, pictures)

    def readout_log_weights(self, readout: Sequence[int], pictures: Sequence[int]) -> Tensor:
        """The same of the logarithm of attention."""
        return self._readout(self.log_weights, readout, pictures)

    def fused(self, fusion: HeadFusion, pictures: Sequence[int]) -> Tensor:
        """Post-softmax attention, fused over heads: float32 [len(pictures), rows, T]."""
        fused = self.weights(0, None, pictures)
        for head in range(1, self.heads):
            _fuse(fused, self.weights(head, None, pictures), fusion)
        return fused.div_(self.heads) if fusion is HeadFusion.MEAN else fused

    def matrix(self, pictures: Sequence[int]) -> Tensor:
        """Post-softmax attention of every head: float32 [len(pictures), heads, rows, T]."""
        heads = range(self.heads)
        return torch.stack([self.weights(head, None, pictures) for head in heads], dim=1)

    def key_norms(self, pictures: Sequence[int]) -> Tensor:
        """Lengths of keys: float32 [len(pictures), 1 + heads, T].

        First of the mean over heads (the thesis' Keys_norm averages before the norm),
        then of each head.
        """
        keys = _take(self.keys, pictures).float()
        with_mean = torch.cat([keys.mean(dim=1, keepdim=True), keys], dim=1)
        lengths: Tensor = torch.linalg.vector_norm(with_mean, dim=-1)
        return lengths

    def gradient_weighted(self, slopes: Tensor, pictures: Sequence[int]) -> Tensor:
        """Mean over heads of max(0, ∇A ⊙ A): float32 [len(pictures), rows, T].

        Attention enters the pass only through O = A·V, so ∇A = ∇O·Vᵀ, and the fused
        kernel may stay in the graph.

        Args:
            slopes: [len(pictures), heads, rows, head_dim], gradient at O.
            pictures: Which of the batch.
        """
        values = _take(self.values, pictures).float()
        total = torch.zeros(1, device=slopes.device)
        for head in range(self.heads):
            slope = slopes[:, head].float() @ values[:, head].mT
            total = total + slope.mul_(self.weights(head, None, pictures)).clamp_(min=0)
        return total / self.heads

    def positive_gradient_rows(self, slopes: Tensor, pictures: Sequence[int]) -> Tensor:
        """Mean over heads and rows of max(0, ∇A): float32 [len(pictures), T]; see above."""
        values = _take(self.values, pictures).float()
        total = torch.zeros(1, device=slopes.device)
        for head in range(self.heads):
            slope = slopes[:, head].float() @ values[:, head].mT
            total = total + slope.clamp_(min=0).mean(dim=1)
        return total / self.heads


class DotProductReading(AttentionReading):
    """What a call of `scaled_dot_product_attention` was given: q/k norm and rotation done.

    Args:
        queries, keys, values: [B, heads, T, head_dim]; XCiT's class attention has one query.
        scale: Of the scores.
        is_plain: Whether these are all that the output is made of: no mask, no dropout.
    """

    def __init__(
        self,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        scale: float,
        *,
        is_plain: bool = False,
    ):
        self.queries, self.keys, self.values = queries.detach(), keys.detach(), values.detach()
        self._scale = scale
        self._is_plain = is_plain

    def scores(self, head: int, rows: Sequence[int] | None, pictures: Sequence[int]) -> Tensor:
        """See `AttentionReading.scores`."""
        queries = _take(self.queries, pictures)[:, head]
        if rows is not None:
            queries = queries[:, list(rows)]
        keys = _take(self.keys, pictures)[:, head]
        return (queries.float() * self._scale) @ keys.float().mT

    @property
    def can_stand_in(self) -> bool:
        """Whether `attend` gives the kernel's output, sooner than the kernel and `fused` would.

        So it is in float32 on the CPU: 11 % of a forward pass of ViT-S/16 against 10 % and 8 %,
        weights multiplied by torch's own library.
        """
        return (
            self._is_plain
            and self.queries.device.type == "cpu"
            and self.queries.dtype == torch.float32
        )

    def attend(self, fusion: HeadFusion) -> tuple[Tensor, Tensor]:
        """Compute the attention of a whole batch in the open, once for both who want it.

        Returns:
            Post-softmax attention, fused over heads, float32 [B, rows, T]; and what the kernel
            would give but for rounding, float32 [B, heads, rows, head_dim].
        """
        batch, heads, rows, width = self.queries.shape
        # As the projection reads it next, so that it is not copied.
        outputs = self.queries.new_empty(batch, rows, heads, width)
        scores = self.queries.new_empty(batch, rows, self.keys.shape[2])
        weights = torch.empty_like(scores)
        fused = torch.empty_like(scores)
        each = zip(
            self.queries.unbind(1),
            self.keys.mT.unbind(1),
            self.values.unbind(1),
            outputs.unbind(2),
            strict=True,
        )
        # Few calls, and none seen by a mode: in a server, each hands the interpreter over to the
        # event loop and asks for it back.
        with torch._C.DisableTorchFunction():
            for head, (queries, keys, values, output) in enumerate(each):
                torch.baddbmm(scores, queries, keys, beta=0, alpha=self._scale, out=scores)
                own = weights if head else fused
                torch.softmax(scores, dim=-1, out=own)
                torch.bmm(own, values, out=output)
                if head:
                    _fuse(fused, own, fusion)
            if fusion is HeadFusion.MEAN:
                fused.div_(heads)
        return fused, outputs.transpose(1, 2)


def _fuse(fused: Tensor, weights: Tensor, fusion: HeadFusion) -> None:
    """Take one more head into a fused matrix, in place."""
    if fusion is HeadFusion.MEAN:
        fused += weights
    elif fusion is HeadFusion.MAX:
        torch.maximum(fused, weights, out=fused)
    else:
        torch.minimum(fused, weights, out=fused)


class GatedReading(AttentionReading):
    """ConViT's gated attention: its weights are no softmax of scores.

    Args:
        weights: [B, heads, T, T], rows sum to 1.
        keys, values: [B, heads, T, head_dim].
    """

    def __init__(self, weights: Tensor, keys: Tensor, values: Tensor):
        self._weights = weights.detach()
        self.keys, self.values = keys.detach(), values.detach()

    def scores(self, head: int, rows: Sequence[int] | None, pictures: Sequence[int]) -> Tensor:
        """The logarithm of the weights, of which they are the softmax."""
        weights = _take(self._weights, pictures)[:, head].float()
        return (weights if rows is None else weights[:, list(rows)]).clamp(min=1e-38).log()
