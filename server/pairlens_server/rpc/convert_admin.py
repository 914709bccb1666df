"""What became of models, as AdminService tells it."""

from __future__ import annotations

from collections.abc import Iterable

from pairlens.v1 import admin_service_pb2
from pairlens_server.rpc.enums import to_proto
from pairlens_server.rpc.errors import to_status
from pairlens_server.service.model_changes import ModelChange


def reload_response(changes: Iterable[ModelChange]) -> admin_service_pb2.ReloadModelsResponse:
    """Convert an answer of ReloadModels."""
    return admin_service_pb2.ReloadModelsResponse(changes=map(_change, changes))


def _change(change: ModelChange) -> admin_service_pb2.ModelChange:
    message = admin_service_pb2.ModelChange(
        model=change.model,
        change=to_proto(admin_service_pb2.ModelChangeKind, change.kind),
        fingerprint=change.fingerprint,
    )
    if change.error is not None:
        message.error.CopyFrom(to_status(change.error, model=change.model))
    return message
