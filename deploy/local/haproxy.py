"""The configuration of a HAProxy in front of the replicas."""

from __future__ import annotations

from collections.abc import Sequence

_HEAD = """\
global
    maxconn 4096
    # Calls that a client may have under way on its one connection; 100 otherwise.
    tune.h2.max-concurrent-streams 256

defaults
    mode http
    timeout connect 2s
    # The longest call that the server supports takes 10 minutes.
    timeout client 11m
    timeout server 11m
    # A replica that refuses the connection has seen nothing of the call.
    retries 3
    retry-on conn-failure
    option redispatch 1

frontend grpc
    bind {listen} proto h2
    # A client's watch of the health would reach one replica and stand for all of them: when that
    # one drained, the client would give up on the others too. HAProxy knows better which replicas
    # are ready. To a client, UNIMPLEMENTED (12) means that nothing is wrong here.
    acl watches_health var(txn.path) -m str /grpc.health.v1.Health/Watch
    http-request set-var(txn.path) path
    http-request return status 200 hdr grpc-status 12 if watches_health
    http-after-response set-header content-type application/grpc if watches_health
    default_backend replicas

backend replicas
    # Calls differ in length by orders of magnitude: by calls under way, not by turns.
    balance leastconn
    # A replica that drains says so here, and still serves for drain_delay_s (1 s).
    option httpchk GET /readyz
    http-check expect status 200
    default-server inter 300ms fall 1 rise 1
"""


def haproxy_configuration(listen: str, replicas: Sequence[tuple[str, str, int]]) -> str:
    """A configuration that balances calls, not connections, over the replicas that are ready.

    Args:
        listen: HOST:PORT for clients, HTTP/2 without TLS.
        replicas: Of each its name, its address HOST:PORT, and the port of its /readyz.
    """
    # HAProxy 2.6 ignores a `check-proto` of the line default-server, and would ask in HTTP/2.
    servers = [
        f"    server {name} {address} proto h2 check check-proto h1 port {metrics_port}\n"
        for name, address, metrics_port in replicas
    ]
    return _HEAD.format(listen=listen) + "".join(servers)
