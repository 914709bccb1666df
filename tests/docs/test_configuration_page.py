"""The page of settings is what the code says."""

import importlib
import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from pairlens_server.config import ServerSettings
from pairlens_server.settings_reference import sections

DOCS = Path(__file__).parents[2] / "docs"
TEXT = (DOCS / "configuration.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def script():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(DOCS)
        yield importlib.import_module("write_configuration")


def test_the_page_is_as_written_by_the_script(script):
    assert script.page() == TEXT, "run: python docs/write_configuration.py"


def test_every_setting_is_on_it_once():
    assert sorted(re.findall(r"^### (\w+)$", TEXT, re.MULTILINE)) == sorted(
        ServerSettings.model_fields
    )


@pytest.mark.parametrize(
    ("name", "line"),
    [
        (
            "max_wait_ms",
            "`--max-wait-ms`, `PAIRLENS_MAX_WAIT_MS` · number, at least 0, at most 1000, "
            "default `2`",
        ),
        ("redis_password", "`PAIRLENS_REDIS_PASSWORD` (no flag: others would see it) · secret"),
        ("cache_bytes", "integer, at least 0, default `1073741824` (1 GiB)"),
        ("cache_precision", "`half` or `float32`, default `half`"),
        ("log_calls", "`all` or `failed` or `none`, default `all`"),
        ("torch_threads", "integer, at least 1, at most 1024, unset by default"),
        ("stall_s", "number, above 0, default `300`"),
        ("reflection", "`true` or `false`, default `true`"),
    ],
)
def test_what_it_says_of_a_setting(name, line):
    (entry,) = re.findall(rf"^### {name}\n(.*?)(?=^##|\Z)", TEXT, re.DOTALL | re.MULTILINE)
    assert line in entry


def is_refused(name: str, value: int) -> bool:
    """Whether a value is wrong by itself, whatever the other settings are."""
    try:
        ServerSettings(**{name: value})
    except ValidationError as error:
        return any(problem["loc"] == (name,) for problem in error.errors())
    return False


def test_ranges_are_those_that_are_checked():
    checked = 0
    for _, settings in sections():
        for setting in settings:
            for word, beyond in (("at least", -1), ("at most", 1)):
                for bound in map(int, re.findall(rf"{word} ([0-9]+)", setting.range)):
                    assert not is_refused(setting.name, bound), setting
                    assert is_refused(setting.name, bound + beyond), setting
                    checked += 1
    assert checked > 20


def test_no_meaning_is_missing():
    for _, settings in sections():
        assert all(setting.meaning.endswith(".") for setting in settings)
