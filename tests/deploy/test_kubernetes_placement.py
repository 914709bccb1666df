"""Replicas are spread over nodes and zones, and do not leave all at once."""

from __future__ import annotations

import pytest

from tests.deploy.rendering import SERVING, needs_kubectl, one, overlay

pytestmark = needs_kubectl


@pytest.mark.parametrize("name", SERVING)
def test_replicas_are_spread(name: str) -> None:
    template = one(overlay(name), "Deployment")["spec"]["template"]
    spread = {rule["topologyKey"]: rule for rule in template["spec"]["topologySpreadConstraints"]}
    assert spread.keys() == {"kubernetes.io/hostname", "topology.kubernetes.io/zone"}
    for rule in spread.values():
        assert rule["maxSkew"] == 1
        # Of the replicas themselves; else nothing would be spread.
        chosen = rule["labelSelector"]["matchLabels"]
        assert chosen
        assert chosen.items() <= template["metadata"]["labels"].items()
        # A cluster of one node is no reason not to run.
        assert rule["whenUnsatisfiable"] == "ScheduleAnyway"


@pytest.mark.parametrize("name", SERVING)
def test_one_replica_at_a_time_may_be_evicted(name: str) -> None:
    budget = one(overlay(name), "PodDisruptionBudget")["spec"]
    assert budget["maxUnavailable"] == 1
    assert "minAvailable" not in budget
    # One that cannot start must not keep a node from being drained.
    assert budget["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
