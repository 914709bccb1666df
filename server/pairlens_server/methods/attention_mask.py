"""Masks for masked image modelling, made of the model's own attention."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor

from pairlens_server.errors import InvalidParameterError, MethodUnsupportedError
from pairlens_server.methods.base import ExplanationMethod, Findings, Panel
from pairlens_server.methods.masking import (
    MaskSelection,
    MaskSource,
    attention_mask,
    log_scores,
    power_scores,
    raw_scores,
)
from pairlens_server.methods.parameters import Parameter, Profile, choices
from pairlens_server.methods.rollout import Rollout
from pairlens_server.recording.activations import Activation
from pairlens_server.recording.facts import ModelFacts
from pairlens_server.recording.primitives import ReadoutAttention, ReadoutLogAttention
from pairlens_server.recording.targets import ScoreTarget

_FIELD = "method.attention_mask"

_OF_BLOCKS = (MaskSource.RAW, MaskSource.LOG, MaskSource.POWER)

# Parameters that some maps alone are made with; on the others they stay unset.
_TAKEN_BY: dict[str, tuple[MaskSource, ...]] = {
    "blocks": _OF_BLOCKS,
    "power": (MaskSource.POWER,),
    "start_block": (MaskSource.ROLLOUT,),
    "end_block": (MaskSource.ROLLOUT,),
    "profile": (MaskSource.ROLLOUT,),
}


@dataclass(frozen=True)
class AttentionMask(ExplanationMethod):
    """Hides the patches that are attended most, or least (see `masking`).

    The map is what the mask is made of: raw attention, its logarithm or power of each of
    `blocks`, or the rollout over a range of them. Every mask of a call draws from the same
    seed, so that masks of several blocks hide equally many patches and differ by the blocks'
    attention alone.

    Attributes:
        source: Which map the mask is made of.
        blocks: 0-based blocks of RAW, LOG and POWER, one mask each; () for the last.
        power: Of POWER, in (0, 1]; None for 0.5.
        start_block: First block of ROLLOUT; None for 0.
        end_block: Last block of ROLLOUT, inclusive; None for the last.
        selection: HIGH or LOW.
        ratio: Part of the patches that is hidden, in (0, 1); None for 0.3.
        max_ratio: With it, the ratio is drawn evenly from ratio to max_ratio.
        hint_ratio: Part of the most attended tenth that is shown again, in [0, 1], of HIGH;
            None for 0.
        seed: Of the draws; None for 0.
        profile: Of ROLLOUT, see `Rollout`; None for STRICT.
    """

    name: ClassVar[str] = "attention_mask"
    revision: ClassVar[int] = 1
    summary: ClassVar[str] = "hides the patches that the readout attends to most, or least"
    paper: ClassVar[str] = (
        "Kakogeorgiou et al., What to Hide from Your Students, ECCV 2022; variants: Reppas, "
        "On visual explanation of supervised and self-supervised learning, 2022"
    )

    source: MaskSource = MaskSource.RAW
    blocks: tuple[int, ...] = ()
    power: float | None = None
    start_block: int | None = None
    end_block: int | None = None
    selection: MaskSelection = MaskSelection.HIGH
    ratio: float | None = None
    max_ratio: float | None = None
    hint_ratio: float | None = None
    seed: int | None = None
    profile: Profile | None = None

    @classmethod
    def refusal(cls, facts: ModelFacts) -> str:
        """See `Method.refusal`."""
        return facts.refusals.readout

    @classmethod
    def parameters(cls, facts: ModelFacts) -> tuple[Parameter, ...]:
        """See `Method.parameters`."""
        sources = tuple(
            s for s in choices(MaskSource) if s != MaskSource.ROLLOUT or not facts.refusals.matrix
        )
        return (
            Parameter(
                "source",
                "enum",
                MaskSource.RAW,
                "the map that the mask is made of",
                choices=sources,
            ),
            *_map_parameters(facts),
            Parameter(
                "selection",
                "enum",
                MaskSelection.HIGH,
                "hide what is attended most or least",
                choices=choices(MaskSelection),
            ),
            Parameter("ratio", "float", 0.3, "part of the patches to hide", above=0, below=1),
            Parameter(
                "max_ratio",
                "float",
                None,
                "with it the ratio is drawn evenly from ratio to max_ratio; unset: it is ratio",
                above=0,
                below=1,
            ),
            Parameter(
                "hint_ratio", "float", 0.0, "of high: part of the top tenth to show again", 0, 1
            ),
            Parameter("seed", "int", 0, "of the draws", 0, 2**32 - 1),
            Parameter(
                "profile",
                "enum",
                Profile.STRICT,
                "of rollout: strict: last block on the left; reference and paper: first",
                choices=choices(Profile),
            ),
        )

    def resolve(self, facts: ModelFacts) -> AttentionMask:
        """See `Method.resolve`; parameters that the map does not take stay unset."""
        unset: dict[str, Any] = {}
        for name, sources in _TAKEN_BY.items():
            if self.source in sources:
                continue
            if getattr(self, name) not in (None, ()):
                raise InvalidParameterError(
                    f"{name} belongs to {' or '.join(s.value for s in sources)} masks; "
                    f"this one is made of {self.source.value}",
                    field=f"{_FIELD}.{name}",
                )
            unset[name] = () if name == "blocks" else None
        if self.source is MaskSource.ROLLOUT and facts.refusals.matrix:
            raise MethodUnsupportedError(
                f"no rollout on this model: {facts.refusals.matrix}", field=f"{_FIELD}.source"
            )
        resolved = replace(super().resolve(facts), **unset)
        resolved._check_together()
        return resolved

    def needs(self, facts: ModelFacts, target: ScoreTarget | None) -> tuple[Activation, ...]:
        """See `ExplanationMethod.needs`."""
        if self.source is MaskSource.ROLLOUT:
            return self._rollout(facts).needs(facts, None)
        return tuple(self._readout(block) for block in self.blocks)

    def panels(self, facts: ModelFacts) -> int:
        """See `ExplanationMethod.panels`."""
        return len(self.blocks) if len(self.blocks) > 1 else 0

    def explain(
        self,
        recorded: Mapping[Activation, Tensor],
        facts: ModelFacts,
        target: ScoreTarget | None,
    ) -> Findings:
        """See `ExplanationMethod.explain`; the map and mask are those of the first block."""
        if self.source is MaskSource.ROLLOUT:
            heatmap = self._rollout(facts).explain(recorded, facts, None).heatmap
            return Findings(heatmap, mask=self._mask(heatmap))
        panels = []
        for block in self.blocks:
            heads = recorded[self._readout(block)][:, facts.layout.prefix :]
            scores = self._scores(heads.unsqueeze(0))[0]
            heatmap = scores.reshape(facts.layout.rows, facts.layout.columns)
            panels.append(Panel(heatmap, block=block, mask=self._mask(heatmap)))
        shown = tuple(panels) if len(panels) > 1 else ()
        return Findings(panels[0].heatmap, shown, mask=panels[0].mask)

    def _check_together(self) -> None:
        """Refuse resolved parameters that contradict each other."""
        assert self.ratio is not None
        if self.max_ratio is not None and self.max_ratio < self.ratio:
            raise InvalidParameterError(
                f"max_ratio {self.max_ratio:g} is less than ratio {self.ratio:g}",
                field=f"{_FIELD}.max_ratio",
            )
        if self.selection is MaskSelection.LOW and self.hint_ratio:
            raise InvalidParameterError(
                "hint_ratio belongs to high masks: low ones hide nothing of the top tenth",
                field=f"{_FIELD}.hint_ratio",
            )
        if len(set(self.blocks)) < len(self.blocks):
            raise InvalidParameterError("a block is named twice", field=f"{_FIELD}.blocks")
        first, last = self.start_block, self.end_block
        if first is not None and last is not None and first > last:
            raise InvalidParameterError(
                f"start_block {first} comes after end_block {last}", field=f"{_FIELD}.start_block"
            )

    def _rollout(self, facts: ModelFacts) -> Rollout:
        profile = self.profile or Profile.STRICT
        return Rollout(self.start_block, self.end_block, profile).resolve(facts)

    def _readout(self, block: int) -> Activation:
        if self.source is MaskSource.LOG:
            return ReadoutLogAttention(block)
        return ReadoutAttention(block)

    def _scores(self, heads: Tensor) -> Tensor:
        """[1, cells] from what `_readout` recorded of the patches: [1, heads, cells]."""
        if self.source is MaskSource.LOG:
            return log_scores(heads)
        if self.source is MaskSource.POWER:
            assert self.power is not None
            return power_scores(heads, self.power)
        return raw_scores(heads)

    def _mask(self, heatmap: Tensor) -> Tensor:
        """Bool [rows, columns]."""
        assert self.ratio is not None
        assert self.hint_ratio is not None
        assert self.seed is not None
        mask = attention_mask(
            heatmap.reshape(1, -1),
            self.ratio,
            seeds=[self.seed],
            max_ratio=self.max_ratio,
            selection=self.selection,
            hint_ratio=self.hint_ratio,
        )
        return mask.reshape(heatmap.shape)


def _map_parameters(facts: ModelFacts) -> tuple[Parameter, ...]:
    """Parameters of the map that a mask is made of."""
    first, last = facts.first_readout_block, facts.blocks - 1
    return (
        Parameter(
            "blocks",
            "ints",
            (last,),
            "0-based blocks of raw, log and power; one mask each",
            first,
            last,
            noun="block",
        ),
        Parameter("power", "float", 0.5, "exponent of power", above=0, maximum=1),
        Parameter(
            "start_block", "int", 0, "first block of rollout, 0-based", 0, last, noun="block"
        ),
        Parameter(
            "end_block", "int", last, "last block of rollout, inclusive", 0, last, noun="block"
        ),
    )
