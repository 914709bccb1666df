"""Where settings come from: flags, environment, a file and defaults.

A flag goes before the environment, that before the file, and that before the default.
"""

from __future__ import annotations

import argparse
import os
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import yaml
from pydantic import ValidationError
from pydantic_settings import EnvSettingsSource

from pairlens_server import __version__
from pairlens_server.config import ENV_PREFIX, ServerSettings
from pairlens_server.errors import ConfigurationError
from pairlens_server.settings_reference import Setting, flag_of, sections, variable_of
from pairlens_server.yaml_file import read_yaml

_FILE_ENV = ENV_PREFIX + "CONFIG"
_PATHS = (
    *("models", "redis_password_file", "redis_ca_file"),
    *("tls_cert_file", "tls_key_file", "tls_client_ca_file", "tokens_file"),
)
_SECRETS = ("redis_password", "redis_url")


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
    if _password_of(flags.get("redis_url", "")):
        raise ConfigurationError(
            "redis_url (--redis-url): a password on the command line is seen by everybody on the "
            "machine; use redis_password_file"
        )
    try:
        return ServerSettings(**{**content, **environment, **flags})
    except ValidationError as error:
        raise ConfigurationError(_readable(error)) from error


def dump(settings: ServerSettings) -> str:
    """The settings as a file for `--config`, but for secrets, which are starred out."""
    content = settings.model_dump(mode="json")
    if settings.redis_url is not None:
        url = settings.redis_url.get_secret_value()
        password = _password_of(url)
        content["redis_url"] = url.replace(f":{password}@", ":***@") if password else url
    return str(yaml.safe_dump(content, sort_keys=False))


def _password_of(url: str) -> str:
    """The password in a URL as it stands there, "" without one."""
    authority = url.partition("://")[2].partition("/")[0]
    user, at, _ = authority.rpartition("@")
    return user.partition(":")[2] if at else ""


def _read(path: Path) -> dict[str, Any]:
    content = read_yaml(path)
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ConfigurationError(f"{path.name}: not a mapping of settings to values")
    for name in _PATHS:
        if isinstance(content.get(name), str):
            content[name] = path.parent / content[name]
    return content


def _readable(error: ValidationError) -> str:
    first, *others = error.errors(include_url=False, include_context=False)
    message = first["msg"].removeprefix("Value error, ")
    more = f" (and {len(others)} more)" if others else ""
    if not first["loc"]:
        return message + more
    name = str(first["loc"][0])
    if first["type"] == "extra_forbidden":
        return f"{name if name.isprintable() else repr(name)}: no such setting{more}"
    given = "" if name in _SECRETS else f", not {reprlib.repr(first['input'])}"
    return f"{name} ({flag_of(name)}, {variable_of(name)}): {message}{given}{more}"


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
    for title, settings in sections():
        group = parser.add_argument_group(title.lower())
        for setting in settings:
            if setting.flag:
                _add(group, setting)
    return parser


def _add(group: argparse._ArgumentGroup, setting: Setting) -> None:
    default = f"; default: {setting.default}" if setting.default else ""
    group.add_argument(
        setting.flag,
        default=argparse.SUPPRESS,
        metavar=setting.name.rpartition("_")[2].upper(),
        help=f"{setting.meaning} [{setting.variable}{default}]".replace("%", "%%"),
    )
