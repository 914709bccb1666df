"""The channel to a server, or to several behind one name."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import grpc
import grpc.aio

import pairlens
from pairlens import _security
from pairlens._security import TlsFiles, Token
from pairlens.errors import InvalidParameterError

DEFAULT_MAX_MESSAGE_BYTES = 256 * 2**20

_SERVICE_CONFIG = {
    # pick_first, gRPC's default, sends everything to one of several servers.
    "loadBalancingConfig": [{"round_robin": {}}],
    # A server that drains or still loads loses its traffic before it refuses it.
    "healthCheckConfig": {"serviceName": ""},
    "methodConfig": [
        {
            "name": [
                {"service": f"pairlens.v1.{name}"}
                for name in ("ExplanationService", "ModelService", "ImageService", "AdminService")
            ],
            # RESOURCE_EXHAUSTED is absent on purpose: gRPC answers it to requests over
            # the size limit as well, which would be sent again in vain. See `_transport`.
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.1s",
                "maxBackoff": "2s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        },
        # Not repeated: by then another of several servers would answer, and drain as well.
        {"name": [{"service": "pairlens.v1.AdminService", "method": "Drain"}]},
    ],
}

_OPTIONS: tuple[tuple[str, str | int], ...] = (
    ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
    # The target decides alone, not a TXT record of its domain.
    ("grpc.service_config_disable_resolution", 1),
    # A peer that vanished without a word is given up within 22 s, in time for a repetition
    # elsewhere before the default timeout of 30 s. The server takes pings every 10 s.
    ("grpc.keepalive_time_ms", 12_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # Of all pings: gRPC gives them a minute, so that calls to a server that hangs ended with
    # their own deadline after 30 s; with this they are answered by another one after 22 s.
    ("grpc.http2.ping_timeout_ms", 10_000),
    # Else gRPC pings once a minute where an answer takes long.
    ("grpc.http2.max_pings_without_data", 0),
    # A server that was away is tried again soon, not after gRPC's two minutes.
    ("grpc.initial_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 5_000),
    # In a rolling restart both old addresses may be gone within gRPC's 30 s.
    ("grpc.dns_min_time_between_resolutions_ms", 2_000),
)


@dataclass(frozen=True, kw_only=True)
class ChannelSettings:
    """Where a client's calls go, and how.

    Attributes:
        target: As gRPC names servers: "host:port", "dns:///name:port", "unix:path".
        max_message_bytes: Largest request and largest answer.
        tls: Whether the connection is encrypted; `TlsFiles` says by which files.
        token: Sent along with each call; a function is asked for each call.
        token_over_plaintext: Whether it may travel unencrypted over a network.

    Raises:
        InvalidParameterError: A number that is not positive, or a token that is none or
            would travel for others to read.
    """

    target: str
    max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES
    tls: bool | TlsFiles = False
    token: Token | None = field(default=None, repr=False)
    token_over_plaintext: bool = False

    def __post_init__(self) -> None:
        if self.max_message_bytes < 1:
            raise InvalidParameterError(
                f"max_message_bytes is positive, not {self.max_message_bytes}",
                field="max_message_bytes",
            )
        if not isinstance(self.tls, (bool, TlsFiles)):
            raise InvalidParameterError(
                f"tls is True, False or TlsFiles(...), not {self.tls!r}", field="tls"
            )
        _security.check_token(
            self.token,
            encrypted=bool(self.tls),
            target=self.target,
            over_plaintext=self.token_over_plaintext,
        )


def open_channel(settings: ChannelSettings) -> grpc.Channel:
    """Open a channel; it connects on the first call.

    Raises:
        InvalidParameterError: A file of TLS cannot be used; `field` names it.
    """
    options = _options(settings)
    if not settings.tls:
        return grpc.insecure_channel(settings.target, options)
    return grpc.secure_channel(settings.target, _credentials(settings), options)


def open_aio_channel(settings: ChannelSettings) -> grpc.aio.Channel:
    """Open a channel for the running event loop; it connects on the first call.

    Raises:
        InvalidParameterError: A file of TLS cannot be used; `field` names it.
    """
    options = _options(settings)
    if not settings.tls:
        return grpc.aio.insecure_channel(settings.target, options)
    return grpc.aio.secure_channel(settings.target, _credentials(settings), options)


def _credentials(settings: ChannelSettings) -> grpc.ChannelCredentials:
    files = settings.tls if isinstance(settings.tls, TlsFiles) else TlsFiles()
    return _security.credentials(files)


def _options(settings: ChannelSettings) -> list[tuple[str, str | int]]:
    options = [
        *_OPTIONS,
        # Requests that do not fit, metadata included, are never repeated: most pictures with the
        # default of 256 KiB.
        ("grpc.per_rpc_retry_buffer_size", min(settings.max_message_bytes + 2**16, 2**31 - 1)),
        ("grpc.max_send_message_length", settings.max_message_bytes),
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        ("grpc.primary_user_agent", f"pairlens-python/{pairlens.__version__}"),
    ]
    if _security.is_local(settings.target):
        # Of the environment (http_proxy), which leads off this machine.
        options.append(("grpc.enable_http_proxy", 0))
    if isinstance(settings.tls, TlsFiles) and settings.tls.server_name is not None:
        options.append(("grpc.ssl_target_name_override", settings.tls.server_name))
    return options
