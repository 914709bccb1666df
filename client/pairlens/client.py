"""The blocking client."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING

from pairlens import _codec, _images, _model_codec, _requests
from pairlens._catalogue import Catalogue
from pairlens._images import EncodedImage, ImageInput
from pairlens._transport import Deadline, call, open_channel
from pairlens.errors import (
    DeadlineExceededError,
    InvalidParameterError,
    ModelNotFoundError,
    UnavailableError,
)
from pairlens.models import MethodKind, ModelDetails, ModelInfo, ParameterValue
from pairlens.options import Rendering
from pairlens.pairs import PairResults, default_scale
from pairlens.rendering import ColorScale
from pairlens.results import Explanation
from pairlens.targets import SimilarTo
from pairlens.v1 import model_service_pb2
from pairlens.v1.explanation_service_pb2_grpc import ExplanationServiceStub
from pairlens.v1.model_service_pb2_grpc import ModelServiceStub

if TYPE_CHECKING:
    from typing_extensions import Self

DEFAULT_TARGET = "localhost:50051"
DEFAULT_TIMEOUT_S = 30.0
DEFAULT_MAX_MESSAGE_BYTES = 256 * 2**20
_NOT_READY_WAIT_S = 0.2


class Client:
    """A connection to one pairlens server, or to several behind one name.

    Safe to share between threads. Use it as a context manager, or `close()` it.
    Calls that found no server, and calls that the server's full queue refused, are
    made again within their timeout.

    Example:
        >>> with Client("localhost:50051") as client:
        ...     client.explain("cat.jpg", method="rollout").save("cat-map.png")
        ...     results = client.pair_similarity("cat.jpg", ["a.jpg", "b.jpg"])
        ...     print([match.similarity for match in results.matches])
    """

    def __init__(
        self,
        target: str = DEFAULT_TARGET,
        *,
        timeout: float = DEFAULT_TIMEOUT_S,
        max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES,
    ) -> None:
        """Prepare a connection, made on the first call.

        Args:
            target: The server as gRPC names it: "host:port", "unix:/path". A name with
                several addresses ("dns:///pairlens:50051") spreads calls over them.
            timeout: Seconds that a call may take, unless it says otherwise.
            max_message_bytes: Largest request to send and answer to take.

        Raises:
            InvalidParameterError: A number that is not positive.
        """
        if max_message_bytes < 1:
            raise InvalidParameterError(f"max_message_bytes is positive, not {max_message_bytes}")
        Deadline(timeout)  # refuses what is no timeout
        self.target = target
        self._timeout = timeout
        self._channel = open_channel(target, max_message_bytes)
        self._explanations = ExplanationServiceStub(self._channel)
        self._model_service = ModelServiceStub(self._channel)
        self._catalogue = Catalogue(self._list)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; calls under way end with code "CANCELLED"."""
        self._channel.close()

    def wait_ready(self, timeout: float | None = None) -> None:
        """Wait until the server serves.

        Args:
            timeout: Seconds; None for the client's.

        Raises:
            DeadlineExceededError: It does not serve within that time.
            UnavailableError: The same, and it said why; `NotReadyError` while it loads.
        """
        deadline = self._deadline(timeout)
        refusal: UnavailableError | None = None
        while True:
            try:
                self._list(deadline, wait_for_ready=True)
                return
            except UnavailableError as error:
                refusal = error
            except DeadlineExceededError as error:
                # Why the server did not serve says more than that it did not.
                raise refusal or error from error.__cause__
            time.sleep(
                max(0.0, min(refusal.retry_after or _NOT_READY_WAIT_S, deadline.remaining()))
            )

    def list_models(self, *, timeout: float | None = None) -> tuple[ModelInfo, ...]:
        """All served models, in the order of the server's configuration.

        Raises:
            PairlensError: The call failed; see `pairlens.errors`.
        """
        return self._catalogue.models(self._deadline(timeout), refresh=True)

    def get_model(self, name: str, *, timeout: float | None = None) -> ModelDetails:
        """One model, and the limits of the server.

        Raises:
            ModelNotFoundError: It is not served.
            PairlensError: The call failed; see `pairlens.errors`.
        """
        request = model_service_pb2.GetModelRequest(model=name)
        deadline = self._deadline(timeout)
        return _model_codec.details(
            call(self._model_service.GetModel, request, deadline, target=self.target)
        )

    def explain(
        self,
        image: ImageInput | EncodedImage,
        *,
        model: str | None = None,
        method: str | None = None,
        target: int | str | SimilarTo | None = None,
        render: Rendering | None = None,
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
        request = _requests.explain_request(encoded, model, method, parameters, target, render)
        with self._forgetting_stale_models():
            response = call(self._explanations.Explain, request, deadline, target=self.target)
        return _codec.explanation(response, encoded, render)

    def class_similarity(
        self,
        query: ImageInput | EncodedImage,
        gallery: ImageInput | EncodedImage | Sequence[ImageInput | EncodedImage],
        *,
        model: str | None = None,
        render: Rendering | None = None,
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
        request = _requests.pair_request(encoded, others, model, method, parameters, render)
        with self._forgetting_stale_models():
            response = call(
                self._explanations.PairSimilarity, request, deadline, target=self.target
            )
        return _codec.pair_results(response, encoded, others, render)

    def _deadline(self, timeout: float | None) -> Deadline:
        return Deadline(self._timeout if timeout is None else timeout)

    def _list(self, deadline: Deadline, *, wait_for_ready: bool = False) -> tuple[ModelInfo, ...]:
        request = model_service_pb2.ListModelsRequest()
        response = call(
            self._model_service.ListModels,
            request,
            deadline,
            target=self.target,
            wait_for_ready=wait_for_ready,
        )
        return _model_codec.models(response)

    @contextmanager
    def _forgetting_stale_models(self) -> Iterator[None]:
        """Ask for the models anew after a call that one of them was gone for."""
        try:
            yield
        except ModelNotFoundError:
            self._catalogue.forget()
            raise
