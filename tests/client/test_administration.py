"""Calls for those who run a server."""

import pytest

from pairlens import Client, ModelChange, errors
from pairlens.v1 import admin_service_pb2
from tests.client.scripted import Scripted, fails, png, status
from tests.client.uploading import LIST


def told(change: ModelChange) -> tuple[str, str, str]:
    return change.model, change.change, change.fingerprint


def test_reload_models(client: Client, service: Scripted):
    service.changes += [
        admin_service_pb2.ModelChange(
            model="clip",
            change=admin_service_pb2.MODEL_CHANGE_KIND_FAILED,
            error=status("CONFIGURATION_INVALID", "no such file"),
        ),
        admin_service_pb2.ModelChange(
            model="dino", change=admin_service_pb2.MODEL_CHANGE_KIND_ADDED, fingerprint="d1"
        ),
        admin_service_pb2.ModelChange(
            model="same", change=admin_service_pb2.MODEL_CHANGE_KIND_UNCHANGED, fingerprint="5a"
        ),
    ]
    changes = client.reload_models()
    assert list(map(told, changes)) == [
        ("vit", "replaced", "f00d"),
        ("cnn", "removed", ""),
        ("clip", "failed", ""),
        ("dino", "added", "d1"),
        ("same", "unchanged", "5a"),
    ]
    assert [change.error is None for change in changes] == [True, True, False, True, True]
    assert isinstance(changes[2].error, errors.ConfigurationInvalidError)
    assert changes[2].error.message == "no such file"


def test_models_are_asked_for_anew_after_a_reload(client: Client, service: Scripted):
    assert client.explain(png()).provenance.model == "vit"
    service.models.reverse()
    client.reload_models()
    assert client.explain(png()).provenance.model == "cnn"
    assert len(service.requests(LIST)) == 2


def test_a_reload_has_ten_minutes_unless_told(client: Client, service: Scripted):
    client.reload_models()
    client.reload_models(timeout=5)
    client.drain()
    assert 590 < service.deadlines[0] < 601  # gRPC rounds up
    assert 4 < service.deadlines[1] < 5.1
    assert 8 < service.deadlines[2] < 10.1  # the client's


def test_a_file_that_is_wrong_as_a_whole(client: Client, service: Scripted):
    service.script.append(fails("CONFIGURATION_INVALID", "line 3: no model"))
    with pytest.raises(errors.ConfigurationInvalidError, match="line 3"):
        client.reload_models()


def test_an_answer_of_a_reload_that_breaks_the_contract(client: Client, service: Scripted):
    service.changes[0].change = admin_service_pb2.MODEL_CHANGE_KIND_FAILED
    with pytest.raises(errors.MalformedResponseError, match="'vit' is failed without why"):
        client.reload_models()


def test_drain(client: Client, service: Scripted):
    assert client.drain() == 3
    service.script.append(fails("PERMISSION_DENIED", "not you"))
    with pytest.raises(errors.PermissionDeniedError, match="not you"):
        client.drain()
