from enum import Enum
from pathlib import Path

import pytest
import yaml

from pairlens_server import __version__, app
from pairlens_server.command_line import parse_command_line
from pairlens_server.config import ServerSettings
from pairlens_server.errors import ConfigurationError
from pairlens_server.images.admission import ImageLimits
from pairlens_server.service.limits import ServiceLimits
from pairlens_server.settings_reference import SECTIONS


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch):
    for name in ServerSettings.model_fields:
        monkeypatch.delenv(f"PAIRLENS_{name.upper()}", raising=False)
    monkeypatch.delenv("PAIRLENS_CONFIG", raising=False)


@pytest.fixture
def file(tmp_path):
    def write(text: str) -> str:
        path = tmp_path / "server.yaml"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


def settings(*argv: str) -> ServerSettings:
    return parse_command_line(argv).settings


def test_defaults_serve_the_demo():
    given = settings()
    assert given.listen == "127.0.0.1:50051"
    assert given.models.name == "models.yaml"
    assert given.models.exists()
    assert given.max_request_bytes == 64 * 2**20
    assert given.limits.max_rendered_pixels == 32_000_000
    assert given.limits.max_match_values == 32_000_000
    assert given.limits.max_target_embeddings == 100_000
    assert given.limits.max_copies == 10_000
    assert given.engine.max_wait_s == 0.002


def test_a_flag_goes_before_a_variable_before_the_file_before_the_default(monkeypatch, file):
    path = file("max_batch: 2\nmax_queued: 3\nmax_candidates: 4\n")
    monkeypatch.setenv("PAIRLENS_MAX_BATCH", "20")
    monkeypatch.setenv("PAIRLENS_MAX_QUEUED", "30")
    given = settings("--config", path, "--max-batch", "200")
    assert (given.max_batch, given.max_queued, given.max_candidates) == (200, 30, 4)
    assert given.drain_s == 20


def test_buckets_are_numbers():
    assert settings().buckets_s == tuple(0.001 * 2**power for power in range(17))
    assert settings("--latency-buckets-s", "0.5, 2").buckets_s == (0.5, 2.0)


def test_every_setting_stands_in_one_section():
    told = [name for names in SECTIONS.values() for name in names]
    assert sorted(told) == sorted(ServerSettings.model_fields)


def test_every_limit_of_a_request_can_be_set():
    names = (
        *("max-candidates", "max-rendered-pixels", "max-match-values", "max-target-embeddings"),
        "max-copies",
    )
    flags = [word for n, name in enumerate(names, 2) for word in (f"--{name}", str(n))]
    limits = settings(*flags, "--max-image-bytes", "7", "--max-image-pixels", "8").limits
    images = ImageLimits(max_bytes=7, max_pixels=8)
    assert limits == ServiceLimits(
        images, 2, 3, max_match_values=4, max_target_embeddings=5, max_copies=6
    )


def test_a_queue_for_one_full_call_is_enough():
    assert settings("--max-queued", "65", "--max-candidates", "64").max_queued == 65


def test_the_file_can_be_named_by_a_variable(monkeypatch, file):
    monkeypatch.setenv("PAIRLENS_CONFIG", file("max_batch: 2\n"))
    assert settings().max_batch == 2


def test_paths_of_the_file_start_at_its_folder(file, tmp_path):
    assert settings("--config", file("models: m.yaml")).models == tmp_path / "m.yaml"
    assert settings("--models", "m.yaml").models == Path("m.yaml")


def test_empty_file_and_empty_variable_say_nothing(monkeypatch, file):
    monkeypatch.setenv("PAIRLENS_MAX_BATCH", "")
    assert settings("--config", file("")) == settings()


def test_variables_that_kubernetes_sets_for_a_service_do_no_harm(monkeypatch):
    monkeypatch.setenv("PAIRLENS_PORT", "tcp://10.0.0.1:50051")
    monkeypatch.setenv("PAIRLENS_SERVICE_HOST", "10.0.0.1")
    settings()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--max-batch", "0"], "max_batch (--max-batch, PAIRLENS_MAX_BATCH): "),
        (["--max-batch", "many"], "not 'many'"),
        (["--listen", "50051"], "HOST:PORT is expected"),
        (["--listen", "127.0.0.1:70000"], "not above 65535"),
        (["--listen", "::1:50051"], "brackets around an IPv6 address"),
        (["--log-level", "loud"], "log_level (--log-level, PAIRLENS_LOG_LEVEL): "),
        (["--max-request-bytes", "1000"], "leaves no room for a picture"),
        (
            ["--max-queued", "64", "--max-candidates", "64"],
            "max_queued (64) must be above max_candidates (64): a call with all its",
        ),
        (["--max-copies", "0"], "max_copies (--max-copies, PAIRLENS_MAX_COPIES): "),
        (["--max-candidates", "600"], "max_queued (512) must be above max_candidates (600)"),
        (["--max-bach", "3"], "unrecognized arguments: --max-bach"),
        (["--max-b", "3"], "unrecognized arguments: --max-b"),
        (["--metrics-listen", "9464"], "metrics_listen (--metrics-listen, PAIRLENS_METRICS_LISTEN"),
        (["--tls-cert-file", "a.pem"], "tls_cert_file and tls_key_file: give both, or neither"),
        (["--tls-client-ca-file", "a.pem"], "tls_client_ca_file needs tls_cert_file"),
        (["--latency-buckets-s", "1,x"], "numbers with commas between are expected, not '1,x'"),
        (["--latency-buckets-s", "1,nan"], "positive numbers are expected"),
        (["--latency-buckets-s", "2,1"], "ascending numbers are expected"),
        (["--max-bytes-under-way", "1000"], "leaves no room for a request of max_request_bytes"),
        (["--drain-delay-s", "-1"], "drain_delay_s (--drain-delay-s, PAIRLENS_DRAIN_DELAY_S): "),
        (["--log-calls", "some"], "log_calls (--log-calls, PAIRLENS_LOG_CALLS): "),
        (["--config", "/nowhere/server.yaml"], "server.yaml: No such file"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(argv, message, capsys):
    assert app.main(argv) == 2
    out, err = capsys.readouterr()
    assert not out
    assert err.startswith("pairlens-server: ")
    assert err.count("\n") == 1
    assert message in err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_bach: 3", "max_bach: no such setting"),
        ("- 3", "not a mapping"),
        ("a: b: c", "no YAML"),
        ("max_batch: -1\nmax_queued: 0", "(and 1 more)"),
    ],
)
def test_a_wrong_file_is_told(file, text, message):
    with pytest.raises(ConfigurationError) as caught:
        settings("--config", file(text))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_models_file_is_told(capfd):
    assert app.main(["--models", "/nowhere/models.yaml"]) == 2
    assert capfd.readouterr().err == "pairlens-server: models.yaml: No such file or directory\n"


def test_print_config_is_a_file_for_config(capsys, file):
    argv = ["--max-batch", "3", "--log-format", "json", "--listen", "[::1]:0"]
    assert app.main([*argv, "--print-config"]) == 0
    printed = capsys.readouterr().out
    assert list(yaml.safe_load(printed)) == list(ServerSettings.model_fields)
    assert settings("--config", file(printed)) == settings(*argv)


def test_help_names_variable_and_default_of_every_flag(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as caught:
        app.main(["--help"])
    assert caught.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for name, field in ServerSettings.model_fields.items():
        assert field.description
        if name == "redis_password":
            assert "--redis-password " not in text
            continue
        assert f"--{name.replace('_', '-')}" in text
        variable = f"[PAIRLENS_{name.upper()}"
        assert variable in text
        if not (field.default is None or isinstance(field.default, Path)):
            default = field.default.value if isinstance(field.default, Enum) else field.default
            written = str(default).lower() if isinstance(default, bool) else str(default)
            assert f"{variable}; default: {written.removesuffix('.0')}]" in text


def test_version(capsys):
    with pytest.raises(SystemExit) as caught:
        app.main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"pairlens-server {__version__}\n"


SECRET_FILES = ("redis_password_file", "tls_key_file", "tokens_file")


def test_what_secret_files_hold_is_not_shown(tmp_path, capsys):
    flags = ["--redis-url", "redis://cache", "--tls-cert-file", str(tmp_path / "certificate")]
    for name in SECRET_FILES:
        path = tmp_path / name
        path.write_text("s3cret")
        flags += [f"--{name.replace('_', '-')}", str(path)]
    assert app.main([*flags, "--print-config"]) == 0
    printed = capsys.readouterr().out
    assert "s3cret" not in printed
    assert {yaml.safe_load(printed)[name] for name in SECRET_FILES} == {
        str(tmp_path / name) for name in SECRET_FILES
    }


def test_no_secret_is_shown(monkeypatch, capsys):
    monkeypatch.setenv("PAIRLENS_REDIS_URL", "redis://lens:s3cret@cache:6379/1")
    assert app.main(["--print-config"]) == 0
    printed = capsys.readouterr().out
    assert yaml.safe_load(printed)["redis_url"] == "redis://lens:***@cache:6379/1"
    monkeypatch.setenv("PAIRLENS_REDIS_URL", "redis://cache")
    monkeypatch.setenv("PAIRLENS_REDIS_PASSWORD", "s3cret")
    assert app.main(["--print-config"]) == 0
    printed = capsys.readouterr().out
    assert "s3cret" not in printed
    assert "s3cret" not in repr(settings())
    found = settings().redis_settings()
    assert found is not None
    assert found.password == "s3cret"


def test_a_password_comes_from_a_file(tmp_path):
    path = tmp_path / "password"
    path.write_text("s3cret\n")
    flags = ("--redis-url", "redis://cache", "--redis-password-file")
    found = settings(*flags, str(path)).redis_settings()
    assert found is not None
    assert found.password == "s3cret"
    with pytest.raises(ConfigurationError, match="redis_password_file: gone: No such file"):
        settings(*flags, str(tmp_path / "gone")).redis_settings()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--redis-url", "redis://:s3cret@cache"], "redis_url (--redis-url): a password on the"),
        (["--redis-url", "http://cache"], "redis_url"),
        (["--redis-url", "redis://cache", "--redis-prefix", "a b"], "redis_prefix"),
        (["--redis-url", "redis://cache", "--redis-timeout-ms", "0"], "redis_timeout_ms"),
        (["--redis-password", "s3cret"], "unrecognized arguments"),
        (["--redis-ca-file", "/nowhere"], "redis_ca_file says something of a Redis, but redis_url"),
        (["--cache-precision", "quarter"], "cache_precision (--cache-precision"),
    ],
)
def test_a_wrong_redis_is_told_without_its_password(argv, message, capsys):
    assert app.main(argv) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert "--redis-password" in argv or "s3cret" not in err


def test_one_password_is_enough(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("PAIRLENS_REDIS_PASSWORD", "s3cret")
    argv = ["--redis-url", "redis://cache", "--redis-password-file", str(tmp_path)]
    assert app.main(argv) == 2
    assert "redis_password and redis_password_file: give one" in capsys.readouterr().err


def test_a_broken_file_is_told_without_its_lines(file):
    with pytest.raises(ConfigurationError) as caught:
        settings("--config", file("max_batch: 2\nredis_password: [s3cret\n"))
    assert str(caught.value).startswith("server.yaml: no YAML: line 3: ")
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("redis_password: !s3cret x", "server.yaml: no YAML: line 1"),
        ("listen: 2020-13-45", "server.yaml: no YAML"),
        ("? 'two\n\n  lines'\n: 1", r"'two\nlines': no such setting"),
    ],
)
def test_whatever_a_file_holds_is_told_in_one_line(file, text, message):
    with pytest.raises(ConfigurationError) as caught:
        settings("--config", file(text))
    assert str(caught.value) == message
