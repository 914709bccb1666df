"""pairlens: why two images match, shown on the images.

The client of a pairlens server. `Client` makes the calls, results are frozen values
with numpy arrays that draw and save themselves, and every failure is a
`PairlensError`. Needs neither torch nor the server's package.
"""

from importlib.metadata import version

from pairlens._images import EncodedImage, ImageInput
from pairlens.client import Client
from pairlens.errors import (
    DeadlineExceededError,
    DrainingError,
    ImageFileError,
    ImageTooLargeError,
    ImageUndecodableError,
    InternalError,
    InvalidParameterError,
    MalformedResponseError,
    MethodUnsupportedError,
    ModelNotFoundError,
    NotReadyError,
    OutOfMemoryError,
    PairlensError,
    QueueFullError,
    RequestTooLargeError,
    ResourceExhaustedError,
    ResponseTooLargeError,
    UnavailableError,
    UnimplementedError,
)
from pairlens.models import (
    Limits,
    Method,
    MethodInfo,
    MethodKind,
    ModelDetails,
    ModelInfo,
    ParameterInfo,
    ParameterValue,
    PreprocessingInfo,
)
from pairlens.options import OverlayStyle, Rendering
from pairlens.pairs import PairFailure, PairMatch, PairResults, SideMap
from pairlens.rendering import Box, ColorMap, ColorScale, GridGeometry, Interpolation
from pairlens.results import Explanation, PlacedMap, Provenance, Rendered, Target, Timing

__version__ = version("pairlens")

__all__ = [
    "Box",
    "Client",
    "ColorMap",
    "ColorScale",
    "DeadlineExceededError",
    "DrainingError",
    "EncodedImage",
    "Explanation",
    "GridGeometry",
    "ImageFileError",
    "ImageInput",
    "ImageTooLargeError",
    "ImageUndecodableError",
    "InternalError",
    "Interpolation",
    "InvalidParameterError",
    "Limits",
    "MalformedResponseError",
    "Method",
    "MethodInfo",
    "MethodKind",
    "MethodUnsupportedError",
    "ModelDetails",
    "ModelInfo",
    "ModelNotFoundError",
    "NotReadyError",
    "OutOfMemoryError",
    "OverlayStyle",
    "PairFailure",
    "PairMatch",
    "PairResults",
    "PairlensError",
    "ParameterInfo",
    "ParameterValue",
    "PlacedMap",
    "PreprocessingInfo",
    "Provenance",
    "QueueFullError",
    "Rendered",
    "Rendering",
    "RequestTooLargeError",
    "ResourceExhaustedError",
    "ResponseTooLargeError",
    "SideMap",
    "Target",
    "Timing",
    "UnavailableError",
    "UnimplementedError",
    "__version__",
]
