"""Class activation maps: features weighed by what a target's score owes them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from pairlens_server.errors import MethodUnsupportedError
from pairlens_server.methods import cam_weights
from pairlens_server.methods.base import Findings
from pairlens_server.methods.parameters import Parameter, choices
from pairlens_server.methods.targeted import TargetedMethod, cam_refusal, given, resolve_layer
from pairlens_server.recording.activations import Activation
from pairlens_server.recording.facts import ModelFacts
from pairlens_server.recording.primitives import FeatureGradient, FeatureMap, GradientRule
from pairlens_server.recording.probes import MaskedScores, Probe
from pairlens_server.recording.targets import ScoreTarget

if TYPE_CHECKING:
    from typing_extensions import Self


def _layer_parameter(facts: ModelFacts) -> Parameter:
    return Parameter(
        "layer", "string", facts.cam_layer, "name of the module whose output is weighed"
    )


def rule_parameter(default: GradientRule) -> Parameter:
    """Description of the parameter `rule`."""
    return Parameter(
        "rule",
        "enum",
        default,
        "plain: the gradient; libra: softmax, scale of norms and gates count as constants",
        choices=choices(GradientRule),
    )


def check_rule(rule: GradientRule, facts: ModelFacts, method: str) -> None:
    """Refuse LibraGrad where it has no rule.

    Raises:
        MethodUnsupportedError: The model has a module that the rule does not cover.
    """
    if rule is GradientRule.LIBRA and facts.refusals.libra:
        raise MethodUnsupportedError(
            f"no LibraGrad on this model: {facts.refusals.libra}; use rule plain",
            field=f"method.{method}.rule",
        )


@dataclass(frozen=True)
class GradientCam(TargetedMethod):
    """A CAM whose weights come from one gradient at one layer.

    Attributes:
        layer: Name of the module whose output is weighed; None for the papers' choice.
    """

    revision: ClassVar[int] = 2

    layer: str | None = None

    @classmethod
    def refusal(cls, facts: ModelFacts) -> str:
        """See `Method.refusal`."""
        return cam_refusal(facts)

    @classmethod
    def forward_passes(cls, facts: ModelFacts) -> float:
        """See `Method.forward_passes`."""
        return 1.3 if facts.blocks else 1.1

    @classmethod
    def parameters(cls, facts: ModelFacts) -> tuple[Parameter, ...]:
        """See `Method.parameters`."""
        return (_layer_parameter(facts),)

    def resolve(self, facts: ModelFacts) -> Self:
        """See `Method.resolve`."""
        resolved = replace(
            super().resolve(facts), layer=resolve_layer(self.layer, facts, self.name)
        )
        check_rule(resolved.gradient_rule, facts, self.name)
        return resolved

    @property
    def gradient_rule(self) -> GradientRule:
        """Which gradient is taken."""
        return GradientRule.PLAIN

    def needs(self, facts: ModelFacts, target: ScoreTarget | None) -> tuple[Activation, ...]:
        """See `ExplanationMethod.needs`."""
        assert self.layer is not None
        gradient = FeatureGradient(self.layer, given(target), self.gradient_rule)
        return (FeatureMap(self.layer), gradient)

    @abstractmethod
    def weigh(self, features: Tensor, gradients: Tensor) -> Tensor:
        """[B, channels, rows, columns] twice to [B, rows, columns]."""

    def explain(
        self,
        recorded: Mapping[Activation, Tensor],
        facts: ModelFacts,
        target: ScoreTarget | None,
    ) -> Findings:
        """See `ExplanationMethod.explain`; values at least 0."""
        features, gradients = (recorded[a].unsqueeze(0) for a in self.needs(facts, target))
        return Findings(self.weigh(features, gradients)[0])


@dataclass(frozen=True)
class RuledCam(GradientCam):
    """A CAM whose gradient follows a rule.

    Attributes:
        rule: See `GradientRule`.
    """

    rule: GradientRule = GradientRule.PLAIN

    @classmethod
    def parameters(cls, facts: ModelFacts) -> tuple[Parameter, ...]:
        """See `Method.parameters`."""
        return (*super().parameters(facts), rule_parameter(GradientRule.PLAIN))

    @property
    def gradient_rule(self) -> GradientRule:
        """See `GradientCam.gradient_rule`."""
        return self.rule


@dataclass(frozen=True)
class GradCam(RuledCam):
    """GradCAM: channels weighed by their mean gradient."""

    name: ClassVar[str] = "grad_cam"
    summary: ClassVar[str] = "regions whose features speak for the target"
    paper: ClassVar[str] = "Selvaraju et al., ICCV 2017; rule libra: Mehri et al., CVPR 2025"

    def weigh(self, features: Tensor, gradients: Tensor) -> Tensor:
        """See `GradientCam.weigh`."""
        return cam_weights.grad_cam(features, gradients)


@dataclass(frozen=True)
class GradCamPlusPlus(GradientCam):
    """GradCAM++: positive gradients weighed place by place."""

    name: ClassVar[str] = "grad_cam_plus_plus"
    summary: ClassVar[str] = "GradCAM that does better with several objects of the class"
    paper: ClassVar[str] = "Chattopadhay et al., WACV 2018"
    caution: ClassVar[str] = (
        "made for features that are at least 0; after a LayerNorm its denominators may be negative"
    )

    def weigh(self, features: Tensor, gradients: Tensor) -> Tensor:
        """See `GradientCam.weigh`."""
        return cam_weights.grad_cam_plus_plus(features, gradients)


@dataclass(frozen=True)
class XGradCam(RuledCam):
    """XGradCAM: gradients weighed by each channel's share of its activation."""

    name: ClassVar[str] = "x_grad_cam"
    summary: ClassVar[str] = "GradCAM whose weights keep the sum of the scores"
    paper: ClassVar[str] = "Fu et al., BMVC 2020; rule libra: Mehri et al., CVPR 2025"
    caution: ClassVar[str] = (
        "divides by the sum of each channel, which is near 0 after a LayerNorm: unstable on ViTs"
    )

    def weigh(self, features: Tensor, gradients: Tensor) -> Tensor:
        """See `GradientCam.weigh`."""
        return cam_weights.x_grad_cam(features, gradients)


@dataclass(frozen=True)
class LayerCam(RuledCam):
    """LayerCAM: every place weighed by its own positive gradient; made for early layers."""

    name: ClassVar[str] = "layer_cam"
    summary: ClassVar[str] = "features weighed place by place; the CAM for early, fine layers"
    paper: ClassVar[str] = "Jiang et al., TIP 2021"

    def weigh(self, features: Tensor, gradients: Tensor) -> Tensor:
        """See `GradientCam.weigh`."""
        return cam_weights.layer_cam(features, gradients)


@dataclass(frozen=True)
class ScoreCam(TargetedMethod):
    """ScoreCAM: channels weighed by the score of the picture under each as a mask.

    Attributes:
        layer: Name of the module whose output is weighed; None for the papers' choice.
    """

    name: ClassVar[str] = "score_cam"
    revision: ClassVar[int] = 1
    summary: ClassVar[str] = "regions that keep the target's score up when only they are shown"
    paper: ClassVar[str] = "Wang et al., CVPR Workshops 2020"
    caution: ClassVar[str] = "one forward pass for each channel of the layer"
    # A masked copy may be predicted as something else.
    class_first: ClassVar[bool] = True

    layer: str | None = None

    @classmethod
    def refusal(cls, facts: ModelFacts) -> str:
        """See `Method.refusal`."""
        return cam_refusal(facts)

    @classmethod
    def forward_passes(cls, facts: ModelFacts) -> float:
        """See `Method.forward_passes`."""
        return 1.0 + facts.layers[facts.cam_layer].channels

    @classmethod
    def parameters(cls, facts: ModelFacts) -> tuple[Parameter, ...]:
        """See `Method.parameters`."""
        return (_layer_parameter(facts),)

    def resolve(self, facts: ModelFacts) -> ScoreCam:
        """See `Method.resolve`."""
        layer = resolve_layer(self.layer, facts, self.name)
        return replace(super().resolve(facts), layer=layer)

    def needs(self, facts: ModelFacts, target: ScoreTarget | None) -> tuple[Activation, ...]:
        """See `ExplanationMethod.needs`."""
        assert self.layer is not None
        return (FeatureMap(self.layer),)

    def probe(
        self,
        recorded: Mapping[Activation, Tensor],
        facts: ModelFacts,
        target: ScoreTarget | None,
    ) -> Probe:
        """See `ExplanationMethod.probe`: the score under each channel's mask.

        By channel, not by distinct mask: which masks are equal, and their order, hangs on the
        last bits of the features, and these scores may outlive them in the cache.
        """
        (features,) = self.needs(facts, target)
        masks, of_channel = cam_weights.channel_masks(recorded[features])
        layout = facts.layout
        return MaskedScores(
            given(target), masks, layout.unseen_bottom, layout.unseen_right, of_channel
        )

    def explain(
        self,
        recorded: Mapping[Activation, Tensor],
        facts: ModelFacts,
        target: ScoreTarget | None,
    ) -> Findings:
        """See `ExplanationMethod.explain`; values at least 0."""
        (needed,) = self.needs(facts, target)
        features = recorded[needed]
        weights = cam_weights.score_cam_weights(recorded[self.probed(given(target))])
        return Findings(cam_weights.score_cam(features[None], weights[None])[0])
