"""Features: where a hidden unit of a block's MLP is active, and which units are strongest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pairlens_server.errors import InvalidParameterError
from pairlens_server.methods.base import ExplanationMethod, Findings, Panel, Unit
from pairlens_server.methods.parameters import Parameter
from pairlens_server.recording.activations import Activation, Derived
from pairlens_server.recording.facts import ModelFacts
from pairlens_server.recording.primitives import HiddenActivations
from pairlens_server.recording.targets import ScoreTarget

_MAX_STRONGEST = 64


def strongest_units(activations: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Units with the largest mean over patches, the earlier first where they tie.

    Ghiasi et al. 2022 rank pictures by this mean for a unit; here it ranks the units of a
    picture.

    Args:
        activations: [B, units, rows, columns].
        count: How many.

    Returns:
        Numbers int64 [B, count] and means [B, count], strongest first.
    """
    means = activations.mean(dim=(2, 3))
    order = means.argsort(dim=1, descending=True, stable=True)[:, :count]
    return order, means.gather(1, order)


@dataclass(frozen=True)
class UnitMaps(Derived):
    """[1 + strongest, 2 + cells]: number, mean and map of the chosen and the strongest units.

    Attributes:
        block: Of the MLP.
        unit: The chosen one; None for the strongest.
        strongest: How many more.
    """

    # Half precision has no odd numbers above 2048, and a ViT-B has 3072 units.
    exact = True

    block: int
    unit: int | None
    strongest: int

    def inputs(self, facts: ModelFacts) -> tuple[Activation, ...]:
        """See `Derived.inputs`."""
        return (HiddenActivations(self.block),)

    def derive(self, recorded: Mapping[Activation, Tensor], facts: ModelFacts) -> Tensor:
        """See `Derived.derive`."""
        activations = recorded[HiddenActivations(self.block)]
        order, _ = strongest_units(activations, self.strongest)
        first = order[:, :1] if self.unit is None else torch.full_like(order[:, :1], self.unit)
        units = torch.cat([first, order], dim=1)
        maps = torch.stack([a[u].flatten(1) for a, u in zip(activations, units, strict=True)])
        # Numbers of units are small integers, which float32 holds exactly.
        return torch.cat([units.float()[..., None], maps.mean(dim=2, keepdim=True), maps], dim=2)


@dataclass(frozen=True)
class HiddenUnit(ExplanationMethod):
    """Activation map of one hidden unit of an MLP, after the activation function.

    Attributes:
        block: 0-based, over the blocks of all stages; None for the last.
        unit: 0-based; None for the strongest.
        strongest: Strongest units to list with their maps; None for 8.
    """

    name: ClassVar[str] = "hidden_unit"
    revision: ClassVar[int] = 1
    summary: ClassVar[str] = "where a hidden unit of a block's MLP is active; the strongest units"
    paper: ClassVar[str] = "Ghiasi et al., What do Vision Transformers Learn, 2022"

    block: int | None = None
    unit: int | None = None
    strongest: int | None = None

    @classmethod
    def refusal(cls, facts: ModelFacts) -> str:
        """See `Method.refusal`."""
        return facts.refusals.hidden

    @classmethod
    def parameters(cls, facts: ModelFacts) -> tuple[Parameter, ...]:
        """See `Method.parameters`."""
        last = len(facts.hidden_units) - 1
        return (
            Parameter("block", "int", last, "block, over all stages", 0, last, noun="block"),
            Parameter(
                "unit",
                "int",
                None,
                "hidden unit; unset: the strongest",
                0,
                max(facts.hidden_units) - 1,
                noun="unit",
            ),
            Parameter(
                "strongest", "int", 8, "strongest units to list with maps", 1, _MAX_STRONGEST
            ),
        )

    def resolve(self, facts: ModelFacts) -> HiddenUnit:
        """See `Method.resolve`."""
        resolved = super().resolve(facts)
        assert resolved.block is not None
        units = facts.hidden_units[resolved.block]
        if resolved.unit is not None and resolved.unit >= units:
            raise InvalidParameterError(
                f"unit {resolved.unit} is out of range; block {resolved.block} has units 0 to "
                f"{units - 1}",
                field="method.hidden_unit.unit",
            )
        return resolved

    def needs(self, facts: ModelFacts, target: ScoreTarget | None) -> tuple[Activation, ...]:
        """See `ExplanationMethod.needs`."""
        assert self.block is not None
        assert self.strongest is not None
        return (UnitMaps(self.block, self.unit, self.strongest),)

    def panels(self, facts: ModelFacts) -> int:
        """See `ExplanationMethod.panels`."""
        assert self.block is not None
        assert self.strongest is not None
        return min(self.strongest, facts.hidden_units[self.block])

    def explain(
        self,
        recorded: Mapping[Activation, Tensor],
        facts: ModelFacts,
        target: ScoreTarget | None,
    ) -> Findings:
        """See `ExplanationMethod.explain`; in units of the activation."""
        assert self.block is not None
        (needed,) = self.needs(facts, target)
        grid = facts.layers[facts.hidden_layers[self.block]]
        maps = recorded[needed][:, 2:].reshape(-1, grid.rows, grid.columns)
        listed = [(int(row[0]), float(row[1])) for row in recorded[needed][1:, :2]]
        panels = tuple(
            Panel(heatmap, block=self.block, unit=unit)
            for (unit, _), heatmap in zip(listed, maps[1:], strict=True)
        )
        units = tuple(Unit(unit, mean) for unit, mean in listed)
        return Findings(maps[0], panels, units=units)
