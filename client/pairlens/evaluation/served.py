"""What a server adds to an evaluation's configuration, and small things that are asked of it."""

from __future__ import annotations

import numpy as np
from PIL import Image

from pairlens._images import EncodedImage
from pairlens.client import Client
from pairlens.errors import MalformedResponseError, ModelNotFoundError
from pairlens.evaluation.protocol import JSON
from pairlens.evaluation.rows import text
from pairlens.models import MethodKind, ModelInfo
from pairlens.rendering import Box

ROLLOUT = "rollout"


def served_settings(
    client: Client, model: ModelInfo, kind: MethodKind, *, timeout: float | None
) -> dict[str, JSON]:
    """Settings that the server knows: its version, and what the controls are made with.

    Asks for the twin, and for the embedding of one small grey picture: an answer names the
    server's version, and a model does not.

    Args:
        client: Connected to the server that holds the model.
        model: What is evaluated.
        kind: Of the methods.
        timeout: Seconds for each call; None for the client's.

    Raises:
        PairlensError: A call failed.
    """
    grey = Image.new("RGB", (32, 32), (128, 128, 128))
    embedded = client.embed(grey, model=model.name, timeout=timeout)
    default = model.default_method(kind)
    return {
        "server_version": embedded.provenance.server_version,
        "controls": {
            "random_twin": model.random_twin,
            "random_twin_fingerprint": _twin(client, model),
            "default_method": None if default is None else text(default),
            "default_method_revision": (
                None if default is None else _revision(model, default.name, kind)
            ),
            "rollout_revision": _revision(model, ROLLOUT, MethodKind.EXPLANATION),
        },
    }


def predicted_class(
    client: Client, model: ModelInfo, image: EncodedImage, *, timeout: float | None
) -> int:
    """The class that the model predicts, for one forward pass.

    Raises:
        PairlensError: The call failed.
    """
    # A metric without passes of its own: the answer names the predicted class.
    scores = client.score_saliency(
        image,
        model=model.name,
        heatmap=np.ones((1, 1), np.float32),
        extent="grid",
        metrics="energy_pointing_game",
        boxes=Box(0, 0, 1, 1),
        timeout=timeout,
    )
    if scores.target is None or scores.target.class_index is None:
        raise MalformedResponseError("the server names no predicted class")
    return scores.target.class_index


def _twin(client: Client, model: ModelInfo) -> str | None:
    if not model.random_twin:
        return None
    try:
        return client.get_model(model.random_twin).model.fingerprint
    except ModelNotFoundError:  # its row says so when it is run
        return None


def _revision(model: ModelInfo, name: str, kind: MethodKind) -> int | None:
    for info in model.methods:
        if info.name == name and info.kind is kind:
            return info.revision
    return None
