"""pairlens: why two images match, shown on the images.

The client of a pairlens server. `Client` makes the calls (`AsyncClient` for asyncio),
results are frozen values with numpy arrays that draw and save themselves, and every
failure is a `PairlensError`. Needs neither torch nor the server's package.
"""

from importlib.metadata import version

from pairlens._images import EncodedImage, ImageInput, SentImage, StoredImage
from pairlens._request_ids import request_id
from pairlens._security import TlsFiles
from pairlens.administration import ModelChange
from pairlens.async_client import AsyncClient
from pairlens.attention import attention_figure
from pairlens.caching import CacheKindStats, CacheStats, ClearedCache, RedisStats, Warmed
from pairlens.client import Client
from pairlens.curves import focus_curve, interrelation_curves
from pairlens.errors import (
    ConfigurationInvalidError,
    DeadlineExceededError,
    DrainingError,
    ImageFileError,
    ImageMissingError,
    ImagesNotKeptError,
    ImageTooLargeError,
    ImageUndecodableError,
    InternalError,
    InvalidParameterError,
    MalformedResponseError,
    MethodUnsupportedError,
    MissingImage,
    ModelNotFoundError,
    NotFiniteError,
    NotReadyError,
    OutOfMemoryError,
    PairlensError,
    PermissionDeniedError,
    QueueFullError,
    RequestTooLargeError,
    ResourceExhaustedError,
    ResponseTooLargeError,
    UnauthenticatedError,
    UnavailableError,
    UnimplementedError,
)
from pairlens.figures import contact_sheet, panel_grid
from pairlens.items import Item, ItemFailure, ItemResult
from pairlens.masks import mask_overlay
from pairlens.metrics import (
    Curve,
    Embeddings,
    Metric,
    MetricInfo,
    MetricScore,
    SaliencyScores,
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
from pairlens.options import CachePolicy, OverlayStyle, Rendering
from pairlens.pairs import PairFailure, PairMatch, PairResults, SideMap
from pairlens.placed import PlacedMap, Rendered
from pairlens.rendering import Box, ColorMap, ColorScale, GridGeometry, Interpolation
from pairlens.results import (
    Diagnostics,
    Explanation,
    HeadInterrelation,
    Panel,
    Provenance,
    Target,
    Timing,
    Unit,
)
from pairlens.targets import SimilarTo

__version__ = version("pairlens")

__all__ = [
    "AsyncClient",
    "Box",
    "CacheKindStats",
    "CachePolicy",
    "CacheStats",
    "ClearedCache",
    "Client",
    "ColorMap",
    "ColorScale",
    "ConfigurationInvalidError",
    "Curve",
    "DeadlineExceededError",
    "Diagnostics",
    "DrainingError",
    "Embeddings",
    "EncodedImage",
    "Explanation",
    "GridGeometry",
    "HeadInterrelation",
    "ImageFileError",
    "ImageInput",
    "ImageMissingError",
    "ImageTooLargeError",
    "ImageUndecodableError",
    "ImagesNotKeptError",
    "InternalError",
    "Interpolation",
    "InvalidParameterError",
    "Item",
    "ItemFailure",
    "ItemResult",
    "Limits",
    "MalformedResponseError",
    "Method",
    "MethodInfo",
    "MethodKind",
    "MethodUnsupportedError",
    "Metric",
    "MetricInfo",
    "MetricScore",
    "MissingImage",
    "ModelChange",
    "ModelDetails",
    "ModelInfo",
    "ModelNotFoundError",
    "NotFiniteError",
    "NotReadyError",
    "OutOfMemoryError",
    "OverlayStyle",
    "PairFailure",
    "PairMatch",
    "PairResults",
    "PairlensError",
    "Panel",
    "ParameterInfo",
    "ParameterValue",
    "PermissionDeniedError",
    "PlacedMap",
    "PreprocessingInfo",
    "Provenance",
    "QueueFullError",
    "RedisStats",
    "Rendered",
    "Rendering",
    "RequestTooLargeError",
    "ResourceExhaustedError",
    "ResponseTooLargeError",
    "SaliencyScores",
    "SentImage",
    "SideMap",
    "SimilarTo",
    "StoredImage",
    "Target",
    "Timing",
    "TlsFiles",
    "UnauthenticatedError",
    "UnavailableError",
    "UnimplementedError",
    "Unit",
    "Warmed",
    "__version__",
    "attention_figure",
    "contact_sheet",
    "focus_curve",
    "interrelation_curves",
    "mask_overlay",
    "panel_grid",
    "request_id",
]
