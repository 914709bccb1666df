"""Cache keys: what a value depends on, and nothing else."""

from __future__ import annotations

import hashlib

from pairlens_server.models.loaded import LoadedModel
from pairlens_server.recording.activations import Activation

SCHEMA = 1
"""Changes whenever the meaning of a stored tensor does."""


def activation_key(model: LoadedModel, activation: Activation, picture_sha256: str) -> str:
    """Key of one activation of one picture.

    The fingerprint covers architecture, weights, preprocessing and dtype, so new weights
    never meet old values; the picture counts by content, not by name.
    """
    parts = (model.fingerprint, model.preprocessing.digest, activation.key, picture_sha256)
    digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()
    return f"pairlens:v{SCHEMA}:activation:{digest}"
