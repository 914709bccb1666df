"""The client's calls for those who run a server."""

from __future__ import annotations

from pairlens import _transport
from pairlens._connection import Connection
from pairlens._failures import from_status
from pairlens._parameters import enum_name
from pairlens._steps import Steps
from pairlens.administration import ModelChange
from pairlens.errors import MalformedResponseError
from pairlens.v1 import admin_service_pb2

RELOAD_TIMEOUT_S = 600.0


class AdministrationCalls(Connection):
    """`reload_models` and `drain`."""

    def reload_models(self, *, timeout: float | None = None) -> Steps[tuple[ModelChange, ...]]:
        """Have the server read its models file again: load what is new, drop what is gone.

        Calls go on meanwhile. A model that cannot be loaded leaves things as they were for
        its name. The server goes on even when the answer is not waited for. Of several servers
        behind one name, any one does it: ask each by its own address.

        Args:
            timeout: Seconds, as models may take minutes to load; None for ten minutes, or the
                client's where that is longer.

        Returns:
            What became of all models, in the order of the file, then of those removed.

        Raises:
            ConfigurationInvalidError: The file as a whole is wrong; nothing changed.
            PermissionDeniedError: The token is no administrator's.
            PairlensError: The call failed; see `pairlens.errors`.
        """
        response = yield from _transport.call(
            lambda stubs: stubs.admin.ReloadModels,
            admin_service_pb2.ReloadModelsRequest(),
            self._deadline(max(self._timeout, RELOAD_TIMEOUT_S) if timeout is None else timeout),
        )
        self._catalogue.forget()
        return tuple(map(_change, response.changes))

    def drain(self, *, timeout: float | None = None) -> Steps[int]:
        """Stop the server in an orderly way: it finishes what it has, and ends.

        Answers at once. Of several servers behind one name, any one does it: ask the one that
        is to stop by its own address.

        Args:
            timeout: Seconds; None for the client's.

        Returns:
            Calls that it had not finished at that moment.

        Raises:
            PermissionDeniedError: The token is no administrator's.
            PairlensError: The call failed; see `pairlens.errors`.
        """
        response = yield from _transport.call(
            lambda stubs: stubs.admin.Drain,
            admin_service_pb2.DrainRequest(),
            self._deadline(timeout),
            repeatable=False,  # by then another of several servers would answer
        )
        return response.calls_under_way


def _change(message: admin_service_pb2.ModelChange) -> ModelChange:
    kind = enum_name(admin_service_pb2.ModelChangeKind.DESCRIPTOR, message.change)
    error = from_status(message.error) if message.HasField("error") else None
    if (kind == "failed") != (error is not None):
        raise MalformedResponseError(f"the change of model {message.model!r} is {kind} without why")
    return ModelChange(message.model, kind, message.fingerprint, error)
