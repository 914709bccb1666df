"""The connection that a client's calls go through, and what it says of the server."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

import grpc

from pairlens import _model_codec, _requests, _transport
from pairlens._catalogue import Catalogue
from pairlens._remote_images import RemoteImages
from pairlens._transport import Deadline, open_channel
from pairlens._uploads import Uploads
from pairlens.errors import (
    DeadlineExceededError,
    InvalidParameterError,
    ModelNotFoundError,
    UnavailableError,
)
from pairlens.models import ModelDetails, ModelInfo
from pairlens.options import CachePolicy
from pairlens.v1 import model_service_pb2
from pairlens.v1.admin_service_pb2_grpc import AdminServiceStub
from pairlens.v1.explanation_service_pb2_grpc import ExplanationServiceStub
from pairlens.v1.image_service_pb2_grpc import ImageServiceStub
from pairlens.v1.model_service_pb2_grpc import ModelServiceStub

if TYPE_CHECKING:
    from typing_extensions import Self

DEFAULT_TARGET = "localhost:50051"
DEFAULT_TIMEOUT_S = 30.0
DEFAULT_MAX_MESSAGE_BYTES = 256 * 2**20
_NOT_READY_WAIT_S = 0.2
_NAME_KEY, _LONGEST_NAME = "pairlens-client", 100

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")


class Connection:
    """A connection to one pairlens server, or to several behind one name."""

    def __init__(
        self,
        target: str = DEFAULT_TARGET,
        *,
        timeout: float = DEFAULT_TIMEOUT_S,
        max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES,
        name: str | None = None,
        cache: CachePolicy = "default",
    ) -> None:
        """Prepare a connection, made on the first call.

        Args:
            target: The server as gRPC names it: "host:port", "unix:/path". A name with
                several addresses ("dns:///pairlens:50051") spreads calls over them.
            timeout: Seconds that a call may take, unless it says otherwise.
            max_message_bytes: Largest request to send and answer to take.
            name: Who calls: a busy server gives each name its share. At most 100 characters
                of ASCII. None: this host and process.
            cache: How calls use the server's cache, unless they say otherwise.

        Raises:
            InvalidParameterError: A number that is not positive, or no such name or policy.
        """
        if max_message_bytes < 1:
            raise InvalidParameterError(f"max_message_bytes is positive, not {max_message_bytes}")
        Deadline(timeout)  # refuses what is no timeout
        _requests.cache_policy(cache)
        self.target = target
        self.name = _own_name() if name is None else _checked(name)
        self._timeout = timeout
        self._cache: CachePolicy = cache
        self._max_message_bytes = max_message_bytes
        self._channel = open_channel(target, max_message_bytes)
        self._explanations = ExplanationServiceStub(self._channel)
        self._model_service = ModelServiceStub(self._channel)
        self._admin = AdminServiceStub(self._channel)
        self._catalogue = Catalogue(self._list, self._details)
        self._uploads = Uploads(
            RemoteImages(ImageServiceStub(self._channel), self._call, target),
            self._call,
            self._catalogue.limits,
            self._catalogue.forget,
            target=target,
            max_message_bytes=max_message_bytes,
        )

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
        return self._catalogue.details(name, self._deadline(timeout), refresh=True)

    def _deadline(self, timeout: float | None) -> Deadline:
        return Deadline(self._timeout if timeout is None else timeout)

    def _policy(self, cache: CachePolicy | None) -> CachePolicy:
        return self._cache if cache is None else cache

    def _call(
        self,
        rpc: grpc.UnaryUnaryMultiCallable[_Request, _Response],
        request: _Request,
        deadline: Deadline,
        /,
        *,
        wait_for_ready: bool = False,
    ) -> _Response:
        """Make a call under the client's name; see `_transport.call`."""
        return _transport.call(
            rpc,
            request,
            deadline,
            target=self.target,
            metadata=((_NAME_KEY, self.name),),
            wait_for_ready=wait_for_ready,
        )

    def _list(self, deadline: Deadline, *, wait_for_ready: bool = False) -> tuple[ModelInfo, ...]:
        request = model_service_pb2.ListModelsRequest()
        response = self._call(
            self._model_service.ListModels, request, deadline, wait_for_ready=wait_for_ready
        )
        return _model_codec.models(response)

    def _details(self, name: str, deadline: Deadline) -> ModelDetails:
        request = model_service_pb2.GetModelRequest(model=name)
        return _model_codec.details(self._call(self._model_service.GetModel, request, deadline))

    @contextmanager
    def _forgetting_stale_models(self) -> Iterator[None]:
        """Ask for the models anew after a call that one of them was gone for."""
        try:
            yield
        except ModelNotFoundError:
            self._catalogue.forget()
            raise


def _own_name() -> str:
    """This host and process."""
    host = "".join(c for c in socket.gethostname() if c.isascii() and c.isprintable())
    return f"{host[: _LONGEST_NAME // 2] or 'unnamed'}:{os.getpid()}"


def _checked(name: str) -> str:
    """The name, as the contract takes it.

    Raises:
        InvalidParameterError: It is none.
    """
    if not name or len(name) > _LONGEST_NAME or not (name.isascii() and name.isprintable()):
        raise InvalidParameterError(
            f"name is 1 to {_LONGEST_NAME} printable characters of ASCII, not {name!r}",
            field="name",
        )
    return name
