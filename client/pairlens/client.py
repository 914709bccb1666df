"""The blocking client."""

from __future__ import annotations

from collections.abc import Sequence

from pairlens import _codec, _images, _requests
from pairlens._caching import CachingCalls
from pairlens._image_fields import ImageField
from pairlens._images import EncodedImage, ImageInput
from pairlens._scoring import ScoringCalls
from pairlens._uploads import PictureCall
from pairlens.models import MethodKind, ParameterValue
from pairlens.options import CachePolicy, Rendering
from pairlens.pairs import PairResults, default_scale
from pairlens.rendering import ColorScale
from pairlens.results import Explanation
from pairlens.targets import SimilarTo
from pairlens.v1.explanation_service_pb2 import ExplainRequest, PairSimilarityRequest


class Client(ScoringCalls, CachingCalls):
    """A connection to one pairlens server, or to several behind one name.

    Safe to share between threads. Use it as a context manager, or `close()` it.
    Calls that found no server, and calls that the server's full queue refused, are
    made again within their timeout. A picture is sent once: large ones, and those that are
    sent again, travel as the hash of their file where the server keeps pictures, and are
    brought again when it has lost them.

    Example:
        >>> with Client("localhost:50051") as client:
        ...     client.explain("cat.jpg", method="rollout").save("cat-map.png")
        ...     results = client.pair_similarity("cat.jpg", ["a.jpg", "b.jpg"])
        ...     print([match.similarity for match in results.matches])
    """

    def explain(
        self,
        image: ImageInput | EncodedImage,
        *,
        model: str | None = None,
        method: str | None = None,
        target: int | str | SimilarTo | None = None,
        render: Rendering | None = None,
        cache: CachePolicy | None = None,
        timeout: float | None = None,
        **parameters: ParameterValue,
    ) -> Explanation:
        """Where a model looks in one picture.

        Args:
            image: A path, an encoded file's bytes, a PIL image or an array; see `ImageInput`.
            model: Name of a served model. None: the first that supports the method.
            method: "rollout", "attention_relevance", "grad_cam" and many more; see
                `ModelInfo.methods`. None: the model's default for such a target.
            target: What the map explains: a class, by index or by label as the model
                spells it; or `SimilarTo(...)`, the similarity to other pictures. None:
                the predicted class. Only for methods that take one.
            render: What the server is to draw besides. Results draw themselves without it.
            cache: How the server's cache is used; None: as the client says.
            timeout: Seconds; None for the client's.
            **parameters: Of the method, for example `block=3, head=0`, `each="head"` or
                `profile="reference"`; see `MethodInfo.parameters`.

        Raises:
            InvalidParameterError: An unknown method or parameter, or a value out of range.
            ImageFileError: The path cannot be read.
            PairlensError: The call failed; see `pairlens.errors`.
        """
        deadline = self._deadline(timeout)
        encoded = _images.encode(image)
        render = render and render.resolved(ColorScale.IMAGE)
        model, method = self._catalogue.choose(
            model,
            method,
            MethodKind.EXPLANATION,
            parameters,
            deadline,
            similarity=isinstance(target, SimilarTo),
        )
        policy = self._policy(cache)

        def build(field: ImageField) -> ExplainRequest:
            return _requests.explain_request(
                encoded, model, method, parameters, target, render, policy, field
            )

        images = (encoded, *(target.images if isinstance(target, SimilarTo) else ()))
        call = PictureCall(self._explanations.Explain, build, images, model)
        with self._forgetting_stale_models():
            response = self._uploads.send(call, deadline)
        return _codec.explanation(response, encoded, render)

    def class_similarity(
        self,
        query: ImageInput | EncodedImage,
        gallery: ImageInput | EncodedImage | Sequence[ImageInput | EncodedImage],
        *,
        model: str | None = None,
        render: Rendering | None = None,
        cache: CachePolicy | None = None,
        timeout: float | None = None,
        **parameters: ParameterValue,
    ) -> Explanation:
        """Which regions of a picture made it similar to a whole gallery (Black et al., 4.2).

        One map: the sum of the query's maps of `pair_similarity` with each picture of the
        gallery, at the price of one pair. It is `explain` with the method
        "pooled_decomposition" and the target `SimilarTo(gallery)`.

        Args:
            query: See `explain`.
            gallery: Pictures, for example all of one class; at most `Limits.max_candidates`.
            model: Name of a served model. None: the first that gives the method.
            render: What the server is to draw besides.
            cache: How the server's cache is used; None: as the client says.
            timeout: Seconds; None for the client's.
            **parameters: Of the method, as in `pair_similarity`.

        Returns:
            The map; `target.similarities` holds the cosine to each picture of the gallery.

        Raises:
            PairlensError: As `explain`.
        """
        return self.explain(
            query,
            model=model,
            method="pooled_decomposition",
            target=SimilarTo(gallery),
            render=render,
            cache=cache,
            timeout=timeout,
            **parameters,
        )

    def pair_similarity(
        self,
        query: ImageInput | EncodedImage,
        candidates: ImageInput | EncodedImage | Sequence[ImageInput | EncodedImage],
        *,
        model: str | None = None,
        method: str | None = None,
        render: Rendering | None = None,
        cache: CachePolicy | None = None,
        timeout: float | None = None,
        **parameters: ParameterValue,
    ) -> PairResults:
        """Which regions of a query and of each candidate made up their similarity.

        Args:
            query: See `explain`.
            candidates: One picture or several, at most `Limits.max_candidates`.
            model: Name of a served model. None: the first that supports the method.
            method: "pooled_decomposition", "correspondence", "affinity" and more; see
                `ModelInfo.methods`. None: the model's default.
            render: What the server is to draw besides. Results draw themselves without it.
            cache: How the server's cache is used; None: as the client says.
            timeout: Seconds; None for the client's.
            **parameters: Of the method, for example `redistribution="rollout"`,
                `profile="strict"`, `bias_mode="separate"`, `match_matrix=True` or
                `query_region=Box(10, 20, 90, 80)`.

        Returns:
            One result for each candidate, in their order. A candidate that the server
            cannot use becomes a `PairFailure` and leaves the others alone.

        Raises:
            InvalidParameterError: No candidate, an unknown method or parameter, or a
                value out of range.
            ImageFileError: A path, of a candidate too, cannot be read.
            PairlensError: The call failed; see `pairlens.errors`.
        """
        deadline = self._deadline(timeout)
        encoded = _images.encode(query, field="query")
        others = _images.encode_all(candidates, field="candidates")
        render = render and render.resolved(default_scale(parameters))
        model, method = self._catalogue.choose(model, method, MethodKind.PAIR, parameters, deadline)
        policy = self._policy(cache)

        def build(field: ImageField) -> PairSimilarityRequest:
            return _requests.pair_request(
                encoded, others, model, method, parameters, render, policy, field
            )

        images = (encoded, *others)
        call = PictureCall(self._explanations.PairSimilarity, build, images, model)
        with self._forgetting_stale_models():
            response = self._uploads.send(call, deadline)
        return _codec.pair_results(response, encoded, others, render)
