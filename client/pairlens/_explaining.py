"""The calls that explain pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from pairlens import _codec, _images, _requests, _steps
from pairlens._image_fields import ImageField
from pairlens._images import EncodedImage, ImageInput, SentImage
from pairlens._sending import Sending
from pairlens._steps import Deadline, Steps
from pairlens._uploads import PictureCall
from pairlens.models import MethodKind, ParameterValue
from pairlens.options import CachePolicy, Rendering
from pairlens.pairs import PairResults, default_scale
from pairlens.rendering import ColorScale
from pairlens.results import Explanation
from pairlens.targets import SimilarTo
from pairlens.v1.explanation_service_pb2 import ExplainRequest, PairSimilarityRequest

_T = TypeVar("_T")


class ExplainingCalls(Sending):
    """`explain`, `class_similarity` and `pair_similarity`."""

    def explain(
        self,
        /,
        image: ImageInput | EncodedImage,
        *,
        model: str | None = None,
        method: str | None = None,
        target: int | str | SimilarTo | None = None,
        render: Rendering | None = None,
        cache: CachePolicy | None = None,
        timeout: float | None = None,
        **parameters: ParameterValue,
    ) -> Steps[Explanation]:
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
        return (
            yield from self._explained(
                image, model, method, target, render, cache, self._deadline(timeout), parameters
            )
        )

    def class_similarity(
        self,
        /,
        query: ImageInput | EncodedImage,
        gallery: ImageInput | EncodedImage | Sequence[ImageInput | EncodedImage],
        *,
        model: str | None = None,
        render: Rendering | None = None,
        cache: CachePolicy | None = None,
        timeout: float | None = None,
        **parameters: ParameterValue,
    ) -> Steps[Explanation]:
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
        deadline = self._deadline(timeout)
        target = yield from _work_unless(_all_at_hand(gallery), lambda: SimilarTo(gallery))
        method = "pooled_decomposition"
        return (
            yield from self._explained(
                query, model, method, target, render, cache, deadline, parameters
            )
        )

    def pair_similarity(
        self,
        /,
        query: ImageInput | EncodedImage,
        candidates: ImageInput | EncodedImage | Sequence[ImageInput | EncodedImage],
        *,
        model: str | None = None,
        method: str | None = None,
        render: Rendering | None = None,
        cache: CachePolicy | None = None,
        timeout: float | None = None,
        **parameters: ParameterValue,
    ) -> Steps[PairResults]:
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
        encoded, others = yield from _encoded_pair(query, candidates)
        render = render and render.resolved(default_scale(parameters))
        model, method = yield from self._catalogue.choose(
            model, method, MethodKind.PAIR, parameters, deadline
        )
        policy = self._policy(cache)

        def build(field: ImageField) -> PairSimilarityRequest:
            return _requests.pair_request(
                encoded, others, model, method, parameters, render, policy, field
            )

        images = (encoded, *others)
        call = PictureCall(lambda stubs: stubs.explanations.PairSimilarity, build, images, model)
        with self._forgetting_stale_models():
            response = yield from self._uploads.send(call, deadline)
        return _codec.pair_results(response, encoded, others, render)

    def _explained(
        self,
        image: ImageInput | EncodedImage,
        model: str | None,
        method: str | None,
        target: int | str | SimilarTo | None,
        render: Rendering | None,
        cache: CachePolicy | None,
        deadline: Deadline,
        parameters: Mapping[str, ParameterValue],
    ) -> Steps[Explanation]:
        """`explain` by a deadline that may have begun before."""
        encoded = yield from self._encoded(image)
        render = render and render.resolved(ColorScale.IMAGE)
        model, method = yield from self._catalogue.choose(
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
        call = PictureCall(lambda stubs: stubs.explanations.Explain, build, images, model)
        with self._forgetting_stale_models():
            response = yield from self._uploads.send(call, deadline)
        return _codec.explanation(response, encoded, render)


def _encoded_pair(
    query: ImageInput | EncodedImage,
    candidates: ImageInput | EncodedImage | Sequence[ImageInput | EncodedImage],
) -> Steps[tuple[SentImage, list[SentImage]]]:
    def encoded() -> tuple[SentImage, list[SentImage]]:
        return (
            _images.encode(query, field="query"),
            _images.encode_all(candidates, field="candidates"),
        )

    return _work_unless(_images.at_hand(query) and _all_at_hand(candidates), encoded)


def _all_at_hand(
    images: ImageInput | EncodedImage | Sequence[ImageInput | EncodedImage],
) -> bool:
    several = images if isinstance(images, (list, tuple)) else (images,)
    return all(map(_images.at_hand, several))


def _work_unless(quick: bool, function: Callable[[], _T]) -> Steps[_T]:
    return function() if quick else (yield from _steps.work(function))
