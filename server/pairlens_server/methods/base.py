"""What every method offers, and what it finds in a picture."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from enum import Enum
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from pairlens_server.methods.parameters import Parameter
from pairlens_server.recording.activations import Activation
from pairlens_server.recording.facts import ModelFacts
from pairlens_server.recording.probes import Probe
from pairlens_server.recording.targets import ScoreTarget

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True, eq=False)
class Panel:
    """One of several maps of a picture.

    Attributes:
        heatmap: float32 [rows, columns], unnormalised.
        block, head, unit: What it is of; None where that does not apply.
        mask: bool [rows, columns], or None.
    """

    heatmap: Tensor
    block: int | None = None
    head: int | None = None
    unit: int | None = None
    mask: Tensor | None = None


@dataclass(frozen=True)
class Unit:
    """A hidden unit of an MLP; strength is its activation's mean over patches."""

    unit: int
    strength: float


@dataclass(frozen=True)
class HeadInterrelation:
    """How one head relates patches with keypoints (K) and without (N); None where undefined."""

    block: int
    head: int
    kk: float | None
    kn: float | None
    nk: float | None
    nn: float | None
    focus_index: float


@dataclass(frozen=True, eq=False)
class Findings:
    """What a method found in one picture.

    Attributes:
        heatmap: float32 [rows, columns], unnormalised.
        panels: Further maps.
        mask: bool [rows, columns], true where a patch is hidden; of masking methods.
        units: Strongest hidden units, strongest first.
        interrelations: Every head of every block.
        keypoints: int64 [rows, columns].
        relevance_drift, completeness_error, bias_share, prefix_share: See `Diagnostics` of
            the contract; None where they do not apply.
    """

    heatmap: Tensor
    panels: tuple[Panel, ...] = ()
    mask: Tensor | None = None
    units: tuple[Unit, ...] = ()
    interrelations: tuple[HeadInterrelation, ...] = ()
    keypoints: Tensor | None = None
    relevance_drift: float | None = None
    completeness_error: float | None = None
    bias_share: float | None = None
    prefix_share: float | None = None


@dataclass(frozen=True)
class Method(ABC):
    """A method with its parameters: a frozen value, its fields named as in the contract.

    Attributes:
        name: Name in the contract.
        revision: Changes whenever the method's numbers do.
        summary: One line on what the map shows.
        paper: Authors, venue and year.
        caution: What to know before using it, or "".
    """

    name: ClassVar[str]
    revision: ClassVar[int]
    summary: ClassVar[str]
    paper: ClassVar[str]
    caution: ClassVar[str] = ""

    @classmethod
    @abstractmethod
    def refusal(cls, facts: ModelFacts) -> str:
        """Why a model cannot give this method, or "" when it can."""

    @classmethod
    def parameters(cls, facts: ModelFacts) -> tuple[Parameter, ...]:
        """One for each field, with range and default for a model that can give the method."""
        return ()

    @classmethod
    def forward_passes(cls, facts: ModelFacts) -> float:
        """About how many plain forward passes one picture costs, with the defaults."""
        return 1.0

    def resolve(self, facts: ModelFacts) -> Self:
        """Fill in the defaults for a model and check every parameter.

        Raises:
            InvalidParameterError: A parameter is out of range for this model.
            MethodUnsupportedError: The model cannot give what a parameter asks for.
        """
        path = f"method.{self.name}"
        return replace(
            self,
            **{
                p.name: p.resolved(getattr(self, p.name), f"{path}.{p.name}")
                for p in self.parameters(facts)
            },
        )

    @property
    def key(self) -> str:
        """Stable text form of a resolved method."""
        values = ((f.name, getattr(self, f.name)) for f in fields(self))
        plain = (f"{n}={v.value if isinstance(v, Enum) else v}" for n, v in values)
        return f"{self.name}:{self.revision}({', '.join(plain)})"


@dataclass(frozen=True)
class ProbeResult(Activation):
    """What `ExplanationMethod.probe` came to; only the service and the cache handle it."""

    # Small, and differences of large scores are taken of it.
    exact = True

    method: str
    target: ScoreTarget


@dataclass(frozen=True)
class ExplanationMethod(Method):
    """A method of Explain.

    Attributes:
        takes_class, takes_similarity: Kinds of target that the map can depend on; both
            False for methods without a target.
        class_first: Whether the predicted class must be known before `needs` and `probe`,
            rather than found along the way.
    """

    takes_class: ClassVar[bool] = False
    takes_similarity: ClassVar[bool] = False
    class_first: ClassVar[bool] = False

    @abstractmethod
    def needs(self, facts: ModelFacts, target: ScoreTarget | None) -> tuple[Activation, ...]:
        """Activations that the map, or the probe, is computed from; call when resolved.

        Args:
            facts: Of the model.
            target: None for methods without one.
        """

    def probe(
        self,
        recorded: Mapping[Activation, Tensor],
        facts: ModelFacts,
        target: ScoreTarget | None,
    ) -> Probe | None:
        """Further passes over changed pictures that the method needs, or None.

        Their result is in `recorded` under `self.probed(target)` when `explain` is called.
        `target` is never the predicted class: it has been made an index.
        """
        return None

    def probed(self, target: ScoreTarget) -> ProbeResult:
        """The name under which `probe`'s result is recorded."""
        return ProbeResult(self.key, target)

    def check_alone(self) -> None:
        """Refuse parameters that only a pair has, and pass without them.

        Raises:
            InvalidParameterError: Names the field.
        """

    def panels(self, facts: ModelFacts) -> int:
        """Number of further maps that `explain` gives; call when resolved."""
        return 0

    @abstractmethod
    def explain(
        self,
        recorded: Mapping[Activation, Tensor],
        facts: ModelFacts,
        target: ScoreTarget | None,
    ) -> Findings:
        """Compute one picture's map from its activations, without a batch dimension."""


def patch_grid(tokens: Tensor, facts: ModelFacts) -> Tensor:
    """Drop the prefix and lay patches out row by row: [..., tokens] to [..., rows, columns]."""
    layout = facts.layout
    patches = tokens[..., layout.prefix :]
    return patches.reshape(*patches.shape[:-1], layout.rows, layout.columns)
