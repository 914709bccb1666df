"""What a server holds and takes, as frozen values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, TypeAlias

from pairlens.rendering import Box

if TYPE_CHECKING:
    from pairlens.metrics import MetricInfo

ParameterValue: TypeAlias = (
    "int | float | bool | str | Sequence[int] | Sequence[float] | Box"
    " | tuple[float, float, float, float]"
)
"""Value of a parameter of a method or a metric.

Enum values are their lower-case names ("strict"); a list of numbers is any sequence of
them; a region is a `Box` or its (left, top, right, bottom). Answers hold tuples and boxes.
"""


@dataclass(frozen=True)
class Choice:
    """A method or a metric with its parameters.

    Attributes:
        name: As in `MethodInfo.name` or `MetricInfo.name`.
        arguments: Pairs of a parameter's name and its value, in the contract's order.
            A parameter that is absent is unset, which has a meaning of its own.
    """

    name: str
    arguments: tuple[tuple[str, ParameterValue], ...] = ()

    @property
    def parameters(self) -> dict[str, ParameterValue]:
        """The arguments as a new dictionary."""
        return dict(self.arguments)

    def __str__(self) -> str:
        arguments = (f"{name}={_short(value)}" for name, value in self.arguments)
        return f"{self.name}({', '.join(arguments)})"


@dataclass(frozen=True)
class Method(Choice):
    """A method with its parameters."""


def _short(value: ParameterValue) -> str:
    if isinstance(value, Box):
        return f"{value.left:g},{value.top:g},{value.right:g},{value.bottom:g}"
    if isinstance(value, tuple):
        return ",".join(_short(item) for item in value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)


class MethodKind(str, Enum):
    """Which call takes a method."""

    EXPLANATION = "explanation"  # `Client.explain`
    PAIR = "pair"  # `Client.pair_similarity`


@dataclass(frozen=True)
class ParameterInfo:
    """A parameter of a method or a metric, for one model.

    Attributes:
        name: Keyword under which `Client.explain`, `pair_similarity` and `Metric.of` take it.
        type: "int", "float", "bool", "string", "enum", "ints" or "floats" (lists) or "box"
            (a region).
        default: The default as text; "" when unset has a meaning of its own.
        description: What the values are, and what unset means.
        minimum, maximum: Range of an "int", a "float" or each of a list, inclusive unless
            said below; or None.
        choices: Names of an "enum".
        minimum_excluded, maximum_excluded: Whether these themselves are out of range.
    """

    name: str
    type: str
    default: str
    description: str
    minimum: float | None
    maximum: float | None
    choices: tuple[str, ...]
    minimum_excluded: bool = False
    maximum_excluded: bool = False


@dataclass(frozen=True)
class MethodInfo:
    """A method, as one model gives it.

    Attributes:
        name: Name to pass as `method`.
        kind: Which call takes it.
        summary: One line on what the map shows.
        refusal: Why the model cannot give it; "" when it can.
        takes_class: Whether the map depends on a class.
        takes_similarity: Whether the target may be the similarity to other pictures.
        revision: Changes whenever the method's numbers do.
        parameters: Empty for methods that the model refuses.
        defaults: The method with its defaults for this model; None when refused.
        forward_passes: About how many plain forward passes of the model one picture costs
            with the defaults; for a pair method, one picture with one partner.
        source: Where the method comes from: authors, venue, year.
        caution: What to know before using it; "" when there is nothing.
    """

    name: str
    kind: MethodKind
    summary: str
    refusal: str
    takes_class: bool
    takes_similarity: bool
    revision: int
    parameters: tuple[ParameterInfo, ...]
    defaults: Method | None
    forward_passes: float
    source: str
    caution: str

    @property
    def takes_target(self) -> bool:
        """Whether `Client.explain` takes a target with it."""
        return self.takes_class or self.takes_similarity

    @property
    def supported(self) -> bool:
        """Whether the model gives the method."""
        return not self.refusal


@dataclass(frozen=True)
class PreprocessingInfo:
    """How a picture becomes the model's input.

    Attributes:
        resize_mode: "stretch", "crop" (shorter side to the size over
            `crop_fraction`, then the centre) or "pad".
        crop_fraction: In (0, 1].
        interpolation: "nearest", "bilinear" or "bicubic", with antialiasing.
        mean, std: Per channel (red, green, blue) of values in [0, 1].
        digest: Hash of these settings and the input size (hex).
    """

    resize_mode: str
    crop_fraction: float
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    digest: str


@dataclass(frozen=True)
class ModelInfo:
    """A served model.

    Attributes:
        name: Name to pass as `model`.
        architecture: timm's name.
        family: "vit", "swin", "resnet" and the like.
        fingerprint: Hash of architecture, weights, projection, preprocessing and dtype.
        device: "cpu", "cuda:0" and the like.
        dtype: What the model computes in ("float32").
        input_height, input_width: Input size in pixels.
        embedding_size: Length of the vector whose cosine `pair_similarity` explains.
        projection: Whether a projection follows the pooling.
        pooling: How tokens or cells become one vector ("token", "avg", "max", ...).
        grid_rows, grid_columns: Cells of the maps.
        prefix_tokens: Tokens before the patches; 0 for CNNs.
        blocks, heads: Transformer blocks, and heads of each; 0 for CNNs.
        hidden_units: Of each block's MLP; 0 without blocks of that kind.
        cam_layer: Module that the class activation maps weigh by default.
        classes: Of the head; 0 without one.
        labels: Label of each class, or empty.
        preprocessing: How a picture becomes the input.
        methods: Supported and refused; those of `explain` come first.
        default_explanation_method, default_similarity_method, default_pair_method: What
            runs when a call names no method: for no target or a class, for a similarity
            target, for pairs; None when the model has none.
        metrics: Of `Client.score_saliency`.
        random_twin: Name of the served model that is this one with random weights, whose
            maps are a control of evaluations; "" when there is none.
    """

    name: str
    architecture: str
    family: str
    fingerprint: str
    device: str
    dtype: str
    input_height: int
    input_width: int
    embedding_size: int
    projection: bool
    pooling: str
    grid_rows: int
    grid_columns: int
    prefix_tokens: int
    blocks: int
    heads: int
    hidden_units: int
    cam_layer: str
    classes: int
    labels: tuple[str, ...] = field(repr=False)
    preprocessing: PreprocessingInfo
    methods: tuple[MethodInfo, ...] = field(repr=False)
    default_explanation_method: Method | None
    default_similarity_method: Method | None
    default_pair_method: Method | None
    metrics: tuple[MetricInfo, ...] = field(repr=False, default=())
    random_twin: str = ""

    def default_method(self, kind: MethodKind, *, similarity: bool = False) -> Method | None:
        """What runs when a call of that kind names no method.

        Args:
            kind: Which call.
            similarity: Whether the call's target is the similarity to other pictures.
        """
        if kind is MethodKind.PAIR:
            return self.default_pair_method
        return self.default_similarity_method if similarity else self.default_explanation_method

    def supports(self, method: str, kind: MethodKind) -> bool:
        """Whether the model gives a method of that name and kind."""
        return any(
            info.name == method and info.kind is kind and info.supported for info in self.methods
        )


@dataclass(frozen=True)
class Limits:
    """What a request to the server may hold.

    Attributes:
        max_request_bytes: Of the whole request.
        max_image_bytes: Of one encoded picture.
        max_image_pixels: Of one picture.
        max_candidates: Of one call of `pair_similarity`; `embed` makes as many calls as
            its pictures need.
        max_rendered_pixels: Of all pixels that the server draws for one call.
        max_match_values: Of all values of one call's match matrices, 4 bytes each.
        max_target_embeddings: Of one similarity target.
        image_formats: Accepted file formats ("JPEG", "PNG", ...).
        max_metrics: Of one call of `score_saliency`.
        max_copies: Changed pictures that one such call may take, the clean one included.
        max_digests: Pictures that one call may ask the whereabouts of.
        max_queued_cost: Work that may wait for the device, in plain forward passes of one
            picture.
        keeps_images: Whether pictures can be uploaded, to be sent by their hashes later.
        max_concurrent_streams: Calls that one connection may have under way; more wait.
        max_bytes_under_way: Of all requests at a time; more are refused with `QueueFullError`.
    """

    max_request_bytes: int
    max_image_bytes: int
    max_image_pixels: int
    max_candidates: int
    max_rendered_pixels: int
    max_match_values: int
    max_target_embeddings: int
    image_formats: tuple[str, ...]
    max_metrics: int = 0
    max_copies: int = 0
    max_digests: int = 0
    max_queued_cost: int = 0
    keeps_images: bool = False
    max_concurrent_streams: int = 0
    max_bytes_under_way: int = 0


@dataclass(frozen=True)
class ModelDetails:
    """One model, and the limits of the server that holds it."""

    model: ModelInfo
    limits: Limits
