"""The server's settings: one tree, from flags, environment, file and defaults.

A flag goes before the environment, that before the file, and that before the default.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsConfigDict

from pairlens_server import __version__
from pairlens_server.demo.pairs import MODELS_FILE
from pairlens_server.engine.engine import EngineSettings
from pairlens_server.errors import ConfigurationError
from pairlens_server.images.admission import ImageLimits
from pairlens_server.service.limits import ServiceLimits

_ENV_PREFIX = "PAIRLENS_"
_FILE_ENV = "PAIRLENS_CONFIG"
_MESSAGE_OVERHEAD = 64 * 1024  # of a request beside its picture, in bytes; generous


# Kubernetes sets PAIRLENS_PORT and PAIRLENS_SERVICE_* for a Service named pairlens, so that no
# setting may have those names, and variables that are no setting are not refused.
class ServerSettings(BaseSettings):
    """Everything that can be set, each field as a flag, a variable and a key of the file."""

    model_config = SettingsConfigDict(
        env_prefix=_ENV_PREFIX,
        env_ignore_empty=True,
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
    )

    listen: str = "127.0.0.1:50051"
    """HOST:PORT to listen on, unencrypted; port 0 takes a free one."""

    models: Path = MODELS_FILE
    """File that declares the models; by default that of the demo."""

    max_request_bytes: int = Field(64 * 2**20, ge=1, lt=2**31)
    """Largest request, all its pictures together, in bytes."""

    max_image_bytes: int = Field(ImageLimits.max_bytes, ge=1)
    """Longest picture file, in bytes."""

    max_image_pixels: int = Field(ImageLimits.max_pixels, ge=1)
    """Largest height times width of a picture."""

    max_candidates: int = Field(ServiceLimits.max_candidates, ge=1)
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
    """Most pictures in one forward pass."""

    max_wait_ms: float = Field(EngineSettings.max_wait_s * 1000, ge=0, le=1000)
    """Milliseconds that a batch that is not full waits for company."""

    max_queued: int = Field(EngineSettings.max_queued, ge=1)
    """Pictures that may wait for the device; more are refused with QUEUE_FULL."""

    probe_chunk: int = Field(EngineSettings.probe_chunk, ge=1)
    """Changed copies of a picture that run before other calls may, for methods that need many."""

    cache_bytes: int = Field(2**30, ge=0)
    """Memory for cached activations, in bytes; 0 caches nothing."""

    image_threads: int = Field(2, ge=1, le=256)
    """Threads that decode, draw and encode pictures."""

    torch_threads: int | None = Field(None, ge=1, le=1024)
    """Threads that a model computes with on the CPU; unset: one per core."""

    drain_s: float = Field(20.0, ge=0)
    """Seconds that calls under way may take after SIGTERM."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe messages that are logged: debug, info, warning or error."""

    log_format: Literal["text", "json"] = "text"
    """text: lines for people; json: one JSON object per line."""

    @field_validator("listen")
    @classmethod
    def _host_and_port(cls, listen: str) -> str:
        if not re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^:/\[\]\s]+):[0-9]{1,5}", listen):
            raise ValueError("HOST:PORT is expected, with brackets around an IPv6 address")
        if int(listen.rpartition(":")[2]) > 65535:
            raise ValueError("PORT is not above 65535")
        return listen

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
            self.max_batch, self.max_wait_ms / 1000, self.max_queued, self.probe_chunk
        )


@dataclass(frozen=True)
class CommandLine:
    """What was asked for on the command line.

    Attributes:
        settings: From all sources.
        print_config: Show them instead of serving.
    """

    settings: ServerSettings
    print_config: bool


def parse_command_line(argv: Sequence[str] | None) -> CommandLine:
    """Read flags, environment and file; `--help` and `--version` exit.

    Args:
        argv: Arguments without the program's name; None for the process's own.

    Raises:
        ConfigurationError: One line that names the setting and what is wrong with it.
    """
    flags = vars(_parser().parse_args(argv))
    path, print_config = flags.pop("config", None), flags.pop("print_config")
    return CommandLine(load_settings(flags, path or os.environ.get(_FILE_ENV)), print_config)


def load_settings(flags: Mapping[str, str], path: str | None) -> ServerSettings:
    """Settings from flags, the environment, a file and the defaults.

    Args:
        flags: By field name, as text.
        path: A YAML file, or None.

    Raises:
        ConfigurationError: One line that names the setting and what is wrong with it.
    """
    content = {} if path is None else _read(Path(path))
    environment = EnvSettingsSource(ServerSettings)()
    try:
        return ServerSettings(**{**content, **environment, **flags})
    except ValidationError as error:
        raise ConfigurationError(_readable(error)) from error


def dump(settings: ServerSettings) -> str:
    """The settings as a file for `--config`."""
    return str(yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False))


def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"{path.name}: {error.strerror or error}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path.name}: no YAML: {' '.join(str(error).split())}") from error
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ConfigurationError(f"{path.name}: not a mapping of settings to values")
    if isinstance(content.get("models"), str):
        content["models"] = path.parent / content["models"]
    return content


def _readable(error: ValidationError) -> str:
    first, *others = error.errors(include_url=False, include_context=False)
    message = first["msg"].removeprefix("Value error, ")
    more = f" (and {len(others)} more)" if others else ""
    if not first["loc"]:
        return message + more
    name = str(first["loc"][0])
    if first["type"] == "extra_forbidden":
        return f"{name}: no such setting{more}"
    return f"{name} ({_flag(name)}, {_variable(name)}): {message}, not {first['input']!r}{more}"


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _variable(name: str) -> str:
    return _ENV_PREFIX + name.upper()


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigurationError(f"{message} (see --help)")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="pairlens-server",
        description="Serves explanations of images and of pairs of images over gRPC.",
        epilog="A flag goes before its environment variable, that before the file, and that "
        "before the default. SIGTERM finishes the calls under way and stops.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    parser.add_argument(
        "--print-config", action="store_true", help="show all settings as a file, and exit"
    )
    parser.add_argument(
        "--config",
        metavar="FILE",
        help=f"YAML file of settings, named as the flags without dashes in front and with _ "
        f"for -; its paths start at its folder [{_FILE_ENV}]",
    )
    for name, field in ServerSettings.model_fields.items():
        # A path of this machine would say less than the description does.
        shown = isinstance(field.default, str | int | float)
        default = f"; default: {field.default}" if shown else ""
        parser.add_argument(
            _flag(name),
            default=argparse.SUPPRESS,
            metavar=name.rpartition("_")[2].upper(),
            help=f"{field.description} [{_variable(name)}{default}]".replace("%", "%%"),
        )
    return parser
