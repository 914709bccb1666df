"""What the labels of metrics can be: bounded, whatever strangers ask for."""

from __future__ import annotations

from pairlens_server import errors
from pairlens_server.cache.stats import CacheKind
from pairlens_server.telemetry.metric import Label
from pairlens_server.telemetry.record import UNKNOWN, Stage

NONE = "none"
"""Value of the labels `model` and `method` where a call has none."""

RPCS = (
    "Explain",
    "PairSimilarity",
    "ScoreSaliency",
    "Embed",
    "Warm",
    "ListModels",
    "GetModel",
    "FindMissingImages",
    "UploadImages",
    "GetCacheStats",
    "ClearCache",
    "ReloadModels",
    "Drain",
)
"""Methods of the contract's services."""

CODES = (
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "UNAUTHENTICATED",
)
"""Status codes that calls end with."""

CHANGES = ("added", "replaced", "removed", "failed")
"""What became of a model when the models file was read again."""

OPERATIONS = ("get", "put", "present", "clear")
"""What is asked of Redis."""

REASONS = tuple(
    sorted(
        {
            kind.reason
            for kind in vars(errors).values()
            if isinstance(kind, type) and issubclass(kind, errors.PairlensError)
        }
    )
)
"""Of errors, as `ErrorInfo.reason` has them."""

RPC = Label("rpc", RPCS)
CODE = Label("code", CODES)
MODEL = Label("model", "name of a served model")
MODEL_OF_CALL = Label(
    "model",
    f"name of a served model; `{NONE}` where the request names none, "
    f"`{UNKNOWN}` where there is no such model",
)
METHOD = Label(
    "method",
    "name of the explanation or pair method that ran; "
    f"`{NONE}` where there is none, `{UNKNOWN}` where the call failed before it was settled",
)
STAGE = Label("stage", tuple(stage.value for stage in Stage))
TIER = Label("tier", ("memory", "redis"))
CACHE_KIND = Label("kind", tuple(kind.value for kind in CacheKind))
RESULT = Label("result", ("hit", "miss", "corrupt"))
