"""Results as a client makes them of the scripted server's answers."""

from __future__ import annotations

from pairlens import EncodedImage, Explanation, Rendering, _codec
from pairlens.v1 import explanation_service_pb2, methods_pb2
from tests.client.scripted import heatmap, png
from tests.client.scripted_answers import explained

IMAGE = EncodedImage(png(), "cat.png")


def explanation_of(
    method: str, image: EncodedImage = IMAGE, render: Rendering | None = None, **parameters: object
) -> Explanation:
    """The answer to a call of Explain without a target."""
    request = explanation_service_pb2.ExplainRequest(
        model="vit", method=methods_pb2.ExplanationMethod(**{method: parameters})
    )
    return _codec.explanation(explained(request, heatmap(image.data)), image, render)
