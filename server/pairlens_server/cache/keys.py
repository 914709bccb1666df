"""Cache keys: what a value depends on, and nothing else.

A key reads `schema:kind:...`. Kinds are `a`, an activation of a picture under a model; `p`, the
size of a picture; `i`, an image file. The model's fingerprint stands in the open, so that the
values of one model can be found and removed; the rest of an activation's name is hashed.
"""

from __future__ import annotations

import hashlib

from pairlens_server.cache.packing import Precision
from pairlens_server.cache.stats import CacheKind
from pairlens_server.models.loaded import LoadedModel
from pairlens_server.recording.activations import Activation

SCHEMA = 2
"""Changes whenever the meaning of a stored value does."""

_ACTIVATIONS = f"{SCHEMA}:a:"
_PICTURES = f"{SCHEMA}:p:"
_IMAGES = f"{SCHEMA}:i:"


def activation_key(
    model: LoadedModel, activation: Activation, picture_sha256: str, precision: Precision
) -> str:
    """Key of one activation of one picture.

    The fingerprint covers architecture, weights, preprocessing and dtype, so new weights
    never meet old values; the picture counts by content, not by name. Replicas that keep values
    in different precision do not read each other's.
    """
    parts = (model.preprocessing.digest, activation.key, picture_sha256, precision.value)
    digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()
    return f"{model_prefix(model.fingerprint)}{digest}"


def picture_key(sha256: str) -> str:
    """Key of the size of a picture."""
    return f"{_PICTURES}{sha256}"


def image_key(sha256: str) -> str:
    """Key of an image file."""
    return f"{_IMAGES}{sha256}"


def model_prefix(fingerprint: str) -> str:
    """What the keys of a model's activations begin with."""
    return f"{_ACTIVATIONS}{fingerprint}:"


def kind_of(key: str) -> CacheKind:
    """Kind of the value under a key."""
    return CacheKind.ACTIVATION if key.startswith(_ACTIVATIONS) else CacheKind.IMAGE


def is_image_file(key: str) -> bool:
    """Whether the value under a key is an image file."""
    return key.startswith(_IMAGES)


def kind_prefixes(kind: CacheKind) -> tuple[str, ...]:
    """What the keys of a kind begin with."""
    return (_ACTIVATIONS,) if kind is CacheKind.ACTIVATION else (_PICTURES, _IMAGES)
