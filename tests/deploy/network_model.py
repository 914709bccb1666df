"""Who may talk to whom under NetworkPolicies, as Kubernetes documents them.

https://kubernetes.io/docs/concepts/services-networking/network-policies/
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Policy = dict[str, Any]
Direction = Literal["Ingress", "Egress"]


@dataclass(frozen=True)
class Place:
    """An end of a connection.

    Attributes:
        labels: Of a pod.
        namespace: Of a pod; "" of what is outside the cluster.
        namespace_labels: Beside the label of its name, which every namespace has.
        address: Of what is outside, or on the node.
    """

    labels: dict[str, str] = field(default_factory=dict)
    namespace: str = ""
    namespace_labels: dict[str, str] = field(default_factory=dict)
    address: str = ""


def allowed(
    policies: Sequence[Policy],
    source: Place,
    destination: Place,
    port: int,
    protocol: str = "TCP",
) -> bool:
    """Whether both ends let a connection through."""
    return _lets_through(policies, "Egress", source, destination, port, protocol) and _lets_through(
        policies, "Ingress", destination, source, port, protocol
    )


def _lets_through(
    policies: Sequence[Policy],
    direction: Direction,
    pod: Place,
    other: Place,
    port: int,
    protocol: str,
) -> bool:
    about = [
        policy
        for policy in policies
        if direction in policy["spec"]["policyTypes"]
        and policy["metadata"]["namespace"] == pod.namespace
        and _selects(policy["spec"]["podSelector"], pod.labels)
    ]
    # A pod that no policy is about is open.
    return not about or any(
        _is_peer(rule, direction, policy, other) and _is_port(rule, port, protocol)
        for policy in about
        for rule in policy["spec"].get(direction.lower(), ())
    )


def _is_peer(rule: dict[str, Any], direction: Direction, policy: Policy, other: Place) -> bool:
    peers = rule.get("from" if direction == "Ingress" else "to")
    if not peers:
        return True
    return any(_matches(peer, policy["metadata"]["namespace"], other) for peer in peers)


def _matches(peer: dict[str, Any], namespace: str, other: Place) -> bool:
    if "ipBlock" in peer:
        network = ipaddress.ip_network(peer["ipBlock"]["cidr"])
        return bool(other.address) and ipaddress.ip_address(other.address) in network
    if not other.namespace:
        return False
    if "namespaceSelector" in peer:
        name = {"kubernetes.io/metadata.name": other.namespace}
        if not _selects(peer["namespaceSelector"], other.namespace_labels | name):
            return False
    elif other.namespace != namespace:
        return False
    return _selects(peer.get("podSelector", {}), other.labels)


def _is_port(rule: dict[str, Any], port: int, protocol: str) -> bool:
    ports = rule.get("ports")
    return not ports or any(
        (entry["port"], entry.get("protocol", "TCP")) == (port, protocol) for entry in ports
    )


def _selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    assert selector.keys() <= {"matchLabels"}, "matchExpressions are not modelled"
    return bool(selector.get("matchLabels", {}).items() <= labels.items())
