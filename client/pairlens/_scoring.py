"""The client's calls that score maps and embed pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy.typing as npt

from pairlens import _embed_codec, _metric_codec, _score_requests, specs
from pairlens._image_fields import ImageField
from pairlens._images import EncodedImage, ImageInput, SentImage
from pairlens._score_requests import MapInput, Saliency
from pairlens._sending import ManyCalls, Pictures, Sending
from pairlens._steps import Deadline, Steps
from pairlens._uploads import PictureCall
from pairlens.metrics import Embeddings, Metric, SaliencyScores
from pairlens.models import Method, ParameterValue
from pairlens.options import CachePolicy
from pairlens.rendering import Box
from pairlens.targets import SimilarTo
from pairlens.v1.explanation_service_pb2 import EmbedRequest, ScoreSaliencyRequest

DEFAULT_METRICS = ("average_drop", "average_increase", "deletion", "insertion")


class ScoringCalls(Sending):
    """`score_saliency` and `embed`."""

    def score_saliency(
        self,
        /,
        image: ImageInput | EncodedImage,
        *,
        model: str | None = None,
        heatmap: MapInput | None = None,
        extent: str | None = None,
        method: str | Method | None = None,
        pair_method: str | Method | None = None,
        target: int | str | SimilarTo | None = None,
        partner_heatmap: MapInput | None = None,
        metrics: str | Metric | Sequence[str | Metric] = DEFAULT_METRICS,
        sides: str | Sequence[str] = ("image",),
        enlargement: str | None = None,
        boxes: Box | Sequence[Box | tuple[float, float, float, float]] = (),
        mask: npt.ArrayLike | None = None,
        return_embeddings: bool = False,
        cache: CachePolicy | None = None,
        timeout: float | None = None,
        **parameters: ParameterValue,
    ) -> Steps[SaliencyScores]:
        """How faithful a map is: what happens to the score as the map's regions are changed.

        At most one of `heatmap`, `method` and `pair_method` is given; without any, the
        model's default method for such a target runs.

        Args:
            image: See `explain`.
            model: Name of a served model. None: the first that gives the method, or for a
                given map the first that knows such a target.
            heatmap: The map to score, of this picture: [rows, columns], or a result of
                `explain` or a side of a pair, made by a model that sees the same part of it.
            extent: What the given maps' cells lie on: "grid" (the part that the model sees),
                "picture" (a value for each pixel of the upright picture; what the model
                does not see may be NaN) or "input" (of the model's input). None: by their
                shape; "grid" for results.
            method: Makes the map by explaining the picture: a name of `explain`, with its
                `**parameters`, or a `Method`.
            pair_method: The same of `pair_similarity`, `image` as the query and the partner
                as the candidate.
            target: What a map is scored by and `method` explains, as in `explain`. The one
                picture of `SimilarTo(picture)` is the *partner*.
            partner_heatmap: The partner's map, with `heatmap` and a side that changes it.
            metrics: Names, texts like "deletion(steps=32)", or `Metric`s; at most
                `Limits.max_metrics`. One text may name several: "deletion, insertion".
            sides: Which picture is changed: "image", "partner" or "both".
            enlargement: How cells become pixels: "nearest", "bilinear" (the default) or
                "bilinear_aligned".
            boxes: Where the object is, in original pixels, for the localisation games.
            mask: The same as bool [image_height, image_width] of the upright picture;
                boxes and mask count together.
            return_embeddings: Answer the embedding of every changed picture of a curve; for a
                similarity alone.
            cache: How the server's cache is used for the clean pictures; None: as the client
                says.
            timeout: Seconds; None for the client's. A curve is dozens of forward passes.
            **parameters: Of the method, as in `explain`.

        Raises:
            InvalidParameterError: More than one source of the map; a map that is not
                [rows, columns] or not finite; an unknown metric, method or parameter; a
                value out of range.
            ImageFileError: The path cannot be read.
            PairlensError: The call failed; see `pairlens.errors`.
        """
        deadline = self._deadline(timeout)
        encoded = yield from self._encoded(image)
        saliency = _score_requests.saliency(
            heatmap, partner_heatmap, extent, method, pair_method, parameters
        )
        similarity = isinstance(target, SimilarTo)
        model, saliency = yield from self._chosen(model, saliency, deadline, similarity=similarity)
        region = _score_requests.region(boxes, mask)

        def build(field: ImageField) -> ScoreSaliencyRequest:
            return _score_requests.score_request(
                encoded,
                model,
                saliency,
                target,
                metrics=_listed(metrics),
                sides=[sides] if isinstance(sides, str) else sides,
                enlargement=enlargement,
                region=region,
                return_embeddings=return_embeddings,
                cache=self._policy(cache),
                field=field,
            )

        images = target.images if isinstance(target, SimilarTo) else ()
        partner = images[0] if len(images) == 1 else None
        call = PictureCall(
            lambda stubs: stubs.explanations.ScoreSaliency, build, (encoded, *images), model
        )
        with self._forgetting_stale_models():
            response = yield from self._uploads.send(call, deadline)
        return _metric_codec.scores(response, encoded, partner, saliency.placed)

    def embed(
        self,
        images: Pictures,
        *,
        model: str | None = None,
        cache: CachePolicy | None = None,
        timeout: float | None = None,
    ) -> Steps[Embeddings]:
        """The embeddings whose cosine `pair_similarity` explains, of any number of pictures.

        Pictures are read and sent in as many requests as the server's limits ask for, one
        after the other.

        Args:
            images: One picture or several; see `ImageInput`.
            model: Name of a served model. None: the first.
            cache: How the server's cache is used; None: as the client says.
            timeout: Seconds of each request; None for the client's.

        Returns:
            A vector for each picture, in their order. One that the server cannot use has a
            failure and leaves the others alone.

        Raises:
            InvalidParameterError: No picture.
            ImageFileError: A path cannot be read.
            PairlensError: A request failed; see `pairlens.errors`.
        """
        known = yield from self._catalogue.details(model, self._deadline(timeout))
        collected = _embed_codec.Collected(known.model.embedding_size)

        def build(chunk: Sequence[SentImage], field: ImageField) -> EmbedRequest:
            return _embed_codec.request(chunk, known.model.name, self._policy(cache), field)

        calls = ManyCalls(lambda stubs: stubs.explanations.Embed, build, known, timeout)
        yield from self._send_each(calls, images, collected)
        return collected.embeddings()

    def _chosen(
        self, model: str | None, saliency: Saliency, deadline: Deadline, *, similarity: bool
    ) -> Steps[tuple[str, Saliency]]:
        """Name the model, and the method where the model's default is to run."""
        if saliency.kind is None:
            if model is None:
                model = yield from self._catalogue.scorer(deadline, similarity=similarity)
            return model, saliency
        parameters = saliency.parameters or {}
        model, name = yield from self._catalogue.choose(
            model, saliency.method, saliency.kind, parameters, deadline, similarity=similarity
        )
        if name is not None:
            return model, replace(saliency, method=name)
        # Unlike Explain's, this request must say what runs.
        default = yield from self._catalogue.default(
            model, saliency.kind, deadline, similarity=similarity
        )
        return model, replace(saliency, method=default.name, parameters=default.parameters)


def _listed(metrics: str | Metric | Sequence[str | Metric]) -> Sequence[str | Metric]:
    if isinstance(metrics, str):
        return specs.split(metrics)
    return [metrics] if isinstance(metrics, Metric) else metrics
