"""Every setting described as data, for `--help` and for the page of the documentation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from pairlens_server.config import ENV_PREFIX, ServerSettings

SECTIONS: Mapping[str, tuple[str, ...]] = {
    "Serving": ("listen", "models", "image_threads", "torch_threads", "keep_memory"),
    "Security": (
        *("tls_cert_file", "tls_key_file", "tls_client_ca_file", "tokens_file", "reflection"),
    ),
    "Limits": (
        *("max_request_bytes", "max_bytes_under_way", "max_concurrent_streams"),
        *("max_connections", "max_image_bytes", "max_image_pixels", "max_candidates"),
        *("max_rendered_pixels", "max_match_values", "max_target_embeddings", "max_copies"),
    ),
    "Batching": ("max_batch", "max_wait_ms", "max_queued", "probe_chunk"),
    "Cache": ("cache_bytes", "image_cache_bytes", "cache_precision"),
    "Redis": (
        *("redis_url", "redis_username", "redis_password", "redis_password_file"),
        *("redis_ca_file", "redis_prefix", "redis_ttl_s", "redis_timeout_ms"),
        *("redis_max_value_bytes", "redis_max_queued_bytes"),
    ),
    "Life cycle": ("drain_delay_s", "drain_s", "stall_s"),
    "Observability": (
        *("metrics_listen", "latency_buckets_s", "tracing", "log_calls", "log_level"),
        "log_format",
    ),
}
"""Names of the settings by section, each once, in the order in which they are told."""

NOT_ON_THE_COMMAND_LINE = ("redis_password",)
"""Settings without a flag: what ends up in lists of processes is no secret."""

_TYPES = {int: "integer", float: "number", bool: "true or false", str: "text", Path: "path"}
_BOUNDS = (("ge", "at least {}"), ("gt", "above {}"), ("le", "at most {}"), ("lt", "below {}"))


@dataclass(frozen=True)
class Setting:
    """What there is to know of a setting.

    Attributes:
        name: In the settings file.
        flag: Of the command line; "" where there is none.
        variable: Of the environment.
        type: "integer", "number", "true or false", "text", "path", "secret", or the choices.
        default: As it would be written; "" where it is unset.
        range: Of its values, in words; "" for any.
        meaning: In a sentence or two.
    """

    name: str
    flag: str
    variable: str
    type: str
    default: str
    range: str
    meaning: str


def sections() -> Iterator[tuple[str, list[Setting]]]:
    """All settings by section."""
    for section, names in SECTIONS.items():
        yield section, [_setting(name, ServerSettings.model_fields[name]) for name in names]


def flag_of(name: str) -> str:
    """The flag of a setting."""
    return "--" + name.replace("_", "-")


def variable_of(name: str) -> str:
    """The environment variable of a setting."""
    return ENV_PREFIX + name.upper()


def _setting(name: str, field: FieldInfo) -> Setting:
    return Setting(
        name=name,
        flag="" if name in NOT_ON_THE_COMMAND_LINE else flag_of(name),
        variable=variable_of(name),
        type=_type(field.annotation),
        default=_default(field.default),
        range=_range(field),
        meaning=" ".join((field.description or "").split()),
    )


def _type(annotation: Any) -> str:
    if isinstance(annotation, UnionType):
        (annotation,) = (kind for kind in get_args(annotation) if kind is not NoneType)
    if get_origin(annotation) is Literal:
        return " or ".join(get_args(annotation))
    if annotation is SecretStr:
        return "secret"
    if issubclass(annotation, Enum):
        return " or ".join(member.value for member in annotation)
    return _TYPES[annotation]


def _default(default: Any) -> str:
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, Path):
        return "the demo's"  # its path is another one on each machine
    if isinstance(default, float):
        return f"{default:g}"
    return "" if default is None else str(default.value if isinstance(default, Enum) else default)


def _range(field: FieldInfo) -> str:
    bounds = [
        word.format(getattr(constraint, name))
        for name, word in _BOUNDS
        for constraint in field.metadata
        if hasattr(constraint, name)
    ]
    patterns = [c.pattern for c in field.metadata if getattr(c, "pattern", None)]
    return ", ".join([*bounds, *(f"matches {pattern}" for pattern in patterns)])
