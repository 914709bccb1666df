"""The server's settings: one tree."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from pairlens_server.cache.packing import Precision
from pairlens_server.cache.redis_settings import RedisSettings
from pairlens_server.demo.pairs import MODELS_FILE
from pairlens_server.engine.engine import EngineSettings
from pairlens_server.images.admission import ImageLimits
from pairlens_server.service.limits import ServiceLimits
from pairlens_server.setting_values import ascending, host_and_port, secret

ENV_PREFIX = "PAIRLENS_"
_MESSAGE_OVERHEAD = 64 * 1024  # of a request beside its picture, in bytes; generous


# Kubernetes sets PAIRLENS_PORT and PAIRLENS_SERVICE_* for a Service named pairlens, so that no
# setting may have those names, and variables that are no setting are not refused.
class ServerSettings(BaseSettings):
    """Everything that can be set, each field as a flag, a variable and a key of the file."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_ignore_empty=True,
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
    )

    listen: str = "127.0.0.1:50051"
    """HOST:PORT to listen on, unencrypted unless tls_cert_file is set; port 0 takes a free one."""

    metrics_listen: str | None = None
    """HOST:PORT for /metrics, /livez and /readyz over plain HTTP; unset: neither is served."""

    models: Path = MODELS_FILE
    """File that declares the models; by default that of the demo."""

    max_request_bytes: int = Field(64 * 2**20, ge=1, lt=2**31)
    """Largest request, all its pictures together, in bytes."""

    max_image_bytes: int = Field(ImageLimits.max_bytes, ge=1)
    """Longest picture file, in bytes."""

    max_image_pixels: int = Field(ImageLimits.max_pixels, ge=1)
    """Largest height times width of a picture."""

    max_candidates: int = Field(ServiceLimits.max_candidates, ge=1, le=10_000)
    """Most candidates of one PairSimilarity call."""

    max_rendered_pixels: int = Field(ServiceLimits.max_rendered_pixels, ge=1)
    """Most pixels drawn for one request, all its pictures together."""

    max_match_values: int = Field(ServiceLimits.max_match_values, ge=1)
    """Most values of one request's match matrices, 4 bytes each."""

    max_target_embeddings: int = Field(ServiceLimits.max_target_embeddings, ge=1)
    """Most embeddings that one similarity target gives."""

    max_copies: int = Field(ServiceLimits.max_copies, ge=1)
    """Most pictures that one ScoreSaliency call has the model see."""

    max_batch: int = Field(EngineSettings.max_batch, ge=1)
    """Most work of one batch, in plain forward passes of one picture."""

    max_wait_ms: float = Field(EngineSettings.max_wait_s * 1000, ge=0, le=1000)
    """Milliseconds that a batch that is not full waits for company."""

    max_queued: int = Field(EngineSettings.max_queued, ge=1)
    """Work that may wait for the device, in the same unit; more is refused with QUEUE_FULL."""

    probe_chunk: int = Field(EngineSettings.probe_chunk, ge=1)
    """Changed copies of a picture that run before other calls may, for methods that need many."""

    cache_bytes: int = Field(2**30, ge=0)
    """Memory for cached activations, in bytes; 0 keeps none in memory."""

    image_cache_bytes: int = Field(2**28, ge=0)
    """Memory for uploaded pictures, in bytes; 0 keeps none in memory."""

    cache_precision: Precision = Precision.HALF
    """half: large activations as 16-bit floats, scaled; float32: as they are."""

    redis_url: SecretStr | None = None
    """Redis that replicas share their caches through: redis://HOST:PORT/DB, rediss:// (TLS),
    unix://PATH, redis+cluster://HOST:PORT,... or redis+sentinel://HOST:PORT,.../SERVICE."""

    redis_username: str | None = None
    """ACL user of Redis."""

    redis_password: SecretStr | None = None
    """Password of Redis; never on the command line."""

    redis_password_file: Path | None = None
    """File that holds the password of Redis."""

    redis_ca_file: Path | None = None
    """Certificates that Redis is known by under TLS; unset: the system's."""

    redis_prefix: str = Field(RedisSettings.prefix, pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    """Beginning of all keys; servers that share values have the same."""

    redis_ttl_s: int = Field(RedisSettings.ttl_s, ge=1)
    """Seconds after which Redis forgets a value."""

    redis_timeout_ms: float = Field(RedisSettings.timeout_s * 1000, gt=0, le=10_000)
    """Milliseconds to wait for a value of Redis; for many at once a few times that."""

    redis_max_value_bytes: int = Field(RedisSettings.max_value_bytes, ge=1, le=512 * 2**20)
    """Longest value that is written to Redis or read from it, in bytes."""

    redis_max_queued_bytes: int = Field(RedisSettings.max_queued_bytes, ge=1)
    """Bytes that may wait to be written to Redis; more is not written."""

    tls_cert_file: Path | None = None
    """Certificate chain of the server, PEM; read again when it changes."""

    tls_key_file: Path | None = None
    """Private key of that certificate, PEM; read again when it changes."""

    tls_client_ca_file: Path | None = None
    """Certificates that clients must be known by, PEM (mutual TLS); unset: any client."""

    tokens_file: Path | None = None
    """YAML file of the bearer tokens that are taken; read again when it changes; unset: none
    is asked for."""

    reflection: bool = True
    """Tell anybody, with or without a token, what the contract is (gRPC server reflection)."""

    max_concurrent_streams: int = Field(256, ge=1, le=65_535)
    """Calls that one connection may have under way; gRPC keeps more waiting."""

    max_connections: int = Field(1000, ge=1, lt=2**31)
    """Connections that may be open; more are closed at once."""

    max_bytes_under_way: int = Field(2**30, ge=1)
    """Bytes of all requests under way together; more are refused with QUEUE_FULL."""

    image_threads: int = Field(2, ge=1, le=256)
    """Threads that decode, draw and encode pictures."""

    torch_threads: int | None = Field(None, ge=1, le=1024)
    """Threads that a model computes with on the CPU; unset: one per core."""

    keep_memory: bool = True
    """Keep freed memory for the next batch, and give it back when idle: faster on the CPU."""

    drain_delay_s: float = Field(1.0, ge=0)
    """Seconds after SIGTERM or Drain in which calls are still taken while load balancers learn
    that the server stops; SIGINT skips them."""

    drain_s: float = Field(20.0, ge=0)
    """Seconds that calls under way may take after that."""

    stall_s: float = Field(300.0, gt=0)
    """Seconds that one batch may take before /livez says that the server hangs."""

    latency_buckets_s: str = ",".join(f"{0.001 * 2**power:g}" for power in range(17))
    """Upper bounds of the histograms of durations, in seconds, ascending, with commas between."""

    tracing: bool = False
    """Export OpenTelemetry traces, as the OTEL_* variables say; needs pairlens[otel]."""

    log_calls: Literal["all", "failed", "none"] = "all"
    """Which calls get a line in the log."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe messages that are logged: debug, info, warning or error."""

    log_format: Literal["text", "json"] = "text"
    """text: lines for people; json: one JSON object per line."""

    @field_validator("listen", "metrics_listen")
    @classmethod
    def _host_and_port(cls, listen: str | None) -> str | None:
        return None if listen is None else host_and_port(listen)

    @field_validator("latency_buckets_s")
    @classmethod
    def _ascending(cls, buckets: str) -> str:
        ascending(buckets)
        return buckets

    @model_validator(mode="after")
    def _tls_is_whole(self) -> ServerSettings:
        if (self.tls_cert_file is None) != (self.tls_key_file is None):
            raise ValueError("tls_cert_file and tls_key_file: give both, or neither")
        if self.tls_client_ca_file is not None and self.tls_cert_file is None:
            raise ValueError("tls_client_ca_file needs tls_cert_file and tls_key_file")
        return self

    @model_validator(mode="after")
    def _requests_fit(self) -> ServerSettings:
        if self.max_bytes_under_way < self.max_request_bytes:
            raise ValueError(
                f"max_bytes_under_way ({self.max_bytes_under_way}) leaves no room for a request "
                f"of max_request_bytes ({self.max_request_bytes})"
            )
        return self

    @model_validator(mode="after")
    def _request_holds_an_image(self) -> ServerSettings:
        if self.max_request_bytes < self.max_image_bytes + _MESSAGE_OVERHEAD:
            raise ValueError(
                f"max_request_bytes ({self.max_request_bytes}) leaves no room for a picture of "
                f"max_image_bytes ({self.max_image_bytes}) and {_MESSAGE_OVERHEAD} bytes around it"
            )
        return self

    @model_validator(mode="after")
    def _queue_holds_a_full_call(self) -> ServerSettings:
        # The query and its candidates are queued together.
        if self.max_queued <= self.max_candidates:
            raise ValueError(
                f"max_queued ({self.max_queued}) must be above max_candidates "
                f"({self.max_candidates}): a call with all its candidates would never be taken on"
            )
        return self

    @model_validator(mode="after")
    def _redis_is_named(self) -> ServerSettings:
        for name in ("redis_username", "redis_password", "redis_password_file", "redis_ca_file"):
            if self.redis_url is None and getattr(self, name) is not None:
                raise ValueError(f"{name} says something of a Redis, but redis_url names none")
        if self.redis_password is not None and self.redis_password_file is not None:
            raise ValueError("redis_password and redis_password_file: give one of them")
        # Parsed here, so that a server with a wrong URL does not begin to load models.
        self.redis_settings("")
        return self

    def redis_settings(self, password: str | None = None) -> RedisSettings | None:
        """How Redis is reached; None without one.

        Args:
            password: Instead of reading `redis_password_file`.

        Raises:
            ConfigurationError: The file cannot be read, or the URL is none.
        """
        if self.redis_url is None:
            return None
        if password is None and self.redis_password is not None:
            password = self.redis_password.get_secret_value()
        if password is None and self.redis_password_file is not None:
            password = secret("redis_password_file", self.redis_password_file)
        return RedisSettings(
            url=self.redis_url.get_secret_value(),
            username=self.redis_username,
            password=password or None,
            ca_file=str(self.redis_ca_file) if self.redis_ca_file else None,
            prefix=self.redis_prefix,
            ttl_s=self.redis_ttl_s,
            timeout_s=self.redis_timeout_ms / 1000,
            max_value_bytes=self.redis_max_value_bytes,
            max_queued_bytes=self.redis_max_queued_bytes,
        )

    @property
    def buckets_s(self) -> tuple[float, ...]:
        """Upper bounds of the histograms of durations, in seconds."""
        return ascending(self.latency_buckets_s)

    @property
    def limits(self) -> ServiceLimits:
        """What a request may hold."""
        images = ImageLimits(max_bytes=self.max_image_bytes, max_pixels=self.max_image_pixels)
        return ServiceLimits(
            images,
            self.max_candidates,
            self.max_rendered_pixels,
            self.max_match_values,
            self.max_target_embeddings,
            max_copies=self.max_copies,
        )

    @property
    def engine(self) -> EngineSettings:
        """Bounds of batching."""
        return EngineSettings(
            max_batch=self.max_batch,
            max_wait_s=self.max_wait_ms / 1000,
            max_queued=self.max_queued,
            probe_chunk=self.probe_chunk,
            max_loading=2 * self.image_threads,
        )
