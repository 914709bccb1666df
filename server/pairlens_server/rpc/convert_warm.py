"""Warm: requests as commands of the service, outcomes as responses."""

from __future__ import annotations

from pairlens.v1 import explanation_service_pb2
from pairlens_server.errors import PairlensError
from pairlens_server.rpc.caller import Caller
from pairlens_server.rpc.convert_cache import read_policy
from pairlens_server.rpc.convert_images import check_count, read_sources
from pairlens_server.rpc.convert_methods import explanation_method, pair_method
from pairlens_server.rpc.convert_requests import required_model
from pairlens_server.rpc.convert_responses import timing_message
from pairlens_server.rpc.errors import to_status
from pairlens_server.service.commands import WarmCommand, WarmOutcome

MAX_METHODS = 1000
"""Of one call, of either kind; each is looked at by itself, while other calls wait."""


def warm_command(request: explanation_service_pb2.WarmRequest, caller: Caller) -> WarmCommand:
    """Read a request of Warm; a picture without a source stays empty, to fail alone.

    Raises:
        InvalidParameterError: Names the field as in the contract.
    """
    check_count(request.methods, MAX_METHODS, "methods")
    check_count(request.pair_methods, MAX_METHODS, "pair_methods")
    return WarmCommand(
        model=required_model(request.model),
        images=read_sources(request.images, "images"),
        methods=tuple(
            explanation_method(method, f"methods[{index}]")
            for index, method in enumerate(request.methods)
        ),
        pair_methods=tuple(
            pair_method(method, f"pair_methods[{index}]")
            for index, method in enumerate(request.pair_methods)
        ),
        deadline_s=caller.deadline_s,
        cache=read_policy(request.cache),
        client=caller.client,
    )


def warm_response(outcome: WarmOutcome) -> explanation_service_pb2.WarmResponse:
    """Convert an answer of Warm."""
    response = explanation_service_pb2.WarmResponse(timing=timing_message(outcome.timings))
    for result in outcome.results:
        message = response.results.add()
        if isinstance(result, PairlensError):
            message.error.CopyFrom(to_status(result))
        else:
            message.warmed.SetInParent()  # a picture that had to be computed is warm, too
            message.warmed.cached = result
    return response
