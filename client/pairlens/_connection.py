"""What all calls of a client share: its settings, and what it knows of the server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pairlens import _model_codec, _requests, _steps, _transport
from pairlens._catalogue import Catalogue
from pairlens._remote_images import RemoteImages
from pairlens._steps import Deadline, Steps
from pairlens._uploads import Uploads
from pairlens.errors import DeadlineExceededError, ModelNotFoundError, UnavailableError
from pairlens.models import ModelDetails, ModelInfo
from pairlens.options import CachePolicy
from pairlens.v1 import model_service_pb2

DEFAULT_TARGET = "localhost:50051"
DEFAULT_TIMEOUT_S = 30.0
_NOT_READY_WAIT_S = 0.2


class Connection:
    """One server, or several behind one name, as the calls of one client know it. Thread-safe.

    Args:
        target: The server, for messages.
        timeout: Seconds that a call may take, unless it says otherwise.
        max_message_bytes: Largest request to send.
        cache: How calls use the server's cache, unless they say otherwise.

    Raises:
        InvalidParameterError: A timeout that is not positive, or no such policy.
    """

    def __init__(
        self, target: str, *, timeout: float, max_message_bytes: int, cache: CachePolicy
    ) -> None:
        Deadline(timeout)  # refuses what is no timeout
        _requests.cache_policy(cache)
        self._timeout = timeout
        self._cache: CachePolicy = cache
        self._max_message_bytes = max_message_bytes
        self._catalogue = Catalogue(self._list, self._details)
        self._uploads = Uploads(
            RemoteImages(),
            self._catalogue.limits,
            self._catalogue.forget,
            target=target,
            max_message_bytes=max_message_bytes,
        )

    def wait_ready(self, timeout: float | None = None) -> Steps[None]:
        """Wait until the server serves.

        Args:
            timeout: Seconds; None for the client's.

        Raises:
            DeadlineExceededError: It does not serve within that time.
            UnavailableError: The same, and it is known why; `NotReadyError` while it loads.
        """
        deadline = self._deadline(timeout)
        refusal: UnavailableError | None = None
        while True:
            try:
                # The first try fails where the others wait: that says what is wrong.
                yield from self._list(deadline, wait_for_ready=refusal is not None)
                return
            except UnavailableError as error:
                refusal = error
            except DeadlineExceededError as error:
                # Why the server did not serve says more than that it did not.
                raise refusal or error from error.__cause__
            wait_s = min(refusal.retry_after or _NOT_READY_WAIT_S, deadline.remaining())
            yield from _steps.sleep(max(0.0, wait_s))

    def list_models(self, *, timeout: float | None = None) -> Steps[tuple[ModelInfo, ...]]:
        """All served models, in the order of the server's configuration.

        Args:
            timeout: Seconds; None for the client's.

        Raises:
            PairlensError: The call failed; see `pairlens.errors`.
        """
        return self._catalogue.models(self._deadline(timeout), refresh=True)

    def get_model(self, name: str, *, timeout: float | None = None) -> Steps[ModelDetails]:
        """One model, and the limits of the server.

        Args:
            name: Of the model.
            timeout: Seconds; None for the client's.

        Raises:
            ModelNotFoundError: It is not served.
            PairlensError: The call failed; see `pairlens.errors`.
        """
        return self._catalogue.details(name, self._deadline(timeout), refresh=True)

    def _deadline(self, timeout: float | None) -> Deadline:
        return Deadline(self._timeout if timeout is None else timeout)

    def _policy(self, cache: CachePolicy | None) -> CachePolicy:
        return self._cache if cache is None else cache

    def _list(
        self, deadline: Deadline, *, wait_for_ready: bool = False
    ) -> Steps[tuple[ModelInfo, ...]]:
        response = yield from _transport.call(
            lambda stubs: stubs.models.ListModels,
            model_service_pb2.ListModelsRequest(),
            deadline,
            wait_for_ready=wait_for_ready,
        )
        return _model_codec.models(response)

    def _details(self, name: str, deadline: Deadline) -> Steps[ModelDetails]:
        request = model_service_pb2.GetModelRequest(model=name)
        response = yield from _transport.call(
            lambda stubs: stubs.models.GetModel, request, deadline
        )
        return _model_codec.details(response)

    @contextmanager
    def _forgetting_stale_models(self) -> Iterator[None]:
        """Ask for the models anew after a call that one of them was gone for."""
        try:
            yield
        except ModelNotFoundError:
            self._catalogue.forget()
            raise
