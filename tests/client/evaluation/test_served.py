"""What a configuration says of the server."""

import pytest

from pairlens.evaluation.served import served_settings
from pairlens.models import MethodKind
from pairlens.v1 import model_service_pb2


def settings(client):
    model = client.get_model("vit").model
    return served_settings(client, model, MethodKind.EXPLANATION, timeout=5)


def test_version_twin_and_revisions(client, service):
    service.models.append(model_service_pb2.ModelInfo(name="vit_random", fingerprint="f1"))
    assert settings(client) == {
        "server_version": "9.9",
        "controls": {
            "random_twin": "vit_random",
            "random_twin_fingerprint": "f1",
            "default_method": "rollout(start_block=0, end_block=11)",
            "default_method_revision": 3,
            "rollout_revision": 3,
        },
    }


def change_twin(models):
    models[-1].fingerprint = "f2"


def change_rollout(models):
    models[0].methods[0].revision = 4


@pytest.mark.parametrize("change", [change_twin, change_rollout])
def test_what_changes_a_control_changes_the_settings(client, service, change):
    service.models.append(model_service_pb2.ModelInfo(name="vit_random", fingerprint="f1"))
    before = settings(client)
    change(service.models)
    assert settings(client)["controls"] != before["controls"]


def test_a_twin_that_is_not_there(client):
    assert settings(client)["controls"]["random_twin_fingerprint"] is None
