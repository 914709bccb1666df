"""Write the page of all settings, from the code.

python docs/write_configuration.py
"""

from __future__ import annotations

from pathlib import Path

from pairlens_server.settings_reference import Setting, sections

PAGE = Path(__file__).resolve().parent / "configuration.md"

_HEAD = """\
# Configuration

`python docs/write_configuration.py` writes this page from the settings that the server reads; a
test compares the two.

A setting is a flag of `pairlens-server`, an environment variable, or a key of the YAML file that
`--config` or `PAIRLENS_CONFIG` names. A flag goes before a variable, that before the file, and that
before the default. `pairlens-server --print-config` shows what came of it, without secrets, as
such a file; paths in a file start at its folder. What is wrong or unknown is told in one line
and ends the process with code 2. An empty variable says nothing.

```yaml
listen: 0.0.0.0:50051
metrics_listen: 0.0.0.0:9464
models: models.yaml
log_format: json
```

Settings are read once. Without a restart the server reads again the models file (`SIGHUP`, or
`pairlens server reload`) and the files of `tls_cert_file`, `tls_key_file`, `tls_client_ca_file` and
`tokens_file` (by itself, when they change). `deploy/models.example.yaml` shows the models file.

`SIGTERM` and `pairlens server drain` stop the server in an orderly way: health and `/readyz` say so
at once, calls are taken for `drain_delay_s` more, those under way then get `drain_s` to end, and
nothing that was accepted is lost within that. `SIGINT` skips the delay, and a second signal skips
the rest.
"""
_UNITS = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))


def page() -> str:
    """The text of the page."""
    parts = [_HEAD]
    for title, settings in sections():
        parts.append(f"## {title}\n")
        parts += [_entry(setting) for setting in settings]
    return "\n".join(parts)


def _entry(setting: Setting) -> str:
    names = [f"`{name}`" for name in (setting.flag, setting.variable) if name]
    facts = [
        _type(setting),
        *([setting.range] if setting.range else []),
        f"default {_default(setting)}" if setting.default else "unset by default",
    ]
    return f"""\
### {setting.name}

{setting.meaning}

{", ".join(names)}{"" if setting.flag else " (no flag: others would see it)"} · {", ".join(facts)}
"""


def _type(setting: Setting) -> str:
    if " or " in setting.type:
        return " or ".join(f"`{choice}`" for choice in setting.type.split(" or "))
    return setting.type


def _default(setting: Setting) -> str:
    if "bytes" in setting.name.split("_"):
        for size, unit in _UNITS:
            if int(setting.default) >= size and int(setting.default) % size == 0:
                return f"`{setting.default}` ({int(setting.default) // size} {unit})"
    return f"`{setting.default}`" if setting.type != "path" else setting.default


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
