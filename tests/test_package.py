"""What a wheel of pairlens holds: everything that runs, and nothing of the tests."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def names(tmp_path_factory) -> set[str]:
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for folder in ("client", "server"):
        shutil.copytree(ROOT / folder, source / folder, ignore=ignore)
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    command += ["--no-build-isolation", "--wheel-dir", out, source]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = out.glob("pairlens-*.whl")
    return set(zipfile.ZipFile(wheel).namelist())


@pytest.mark.parametrize(
    "name",
    [
        "pairlens/__init__.py",
        "pairlens/py.typed",
        "pairlens/v1/explanation_service_pb2.py",
        "pairlens/v1/explanation_service_pb2.pyi",
        "pairlens/v1/explanation_service_pb2_grpc.py",
        "pairlens_server/app.py",
        "pairlens_server/demo/models.yaml",
        "pairlens_server/demo/models/demo-vit.safetensors",
        "pairlens_server/demo/models/demo-resnet.safetensors",
        "pairlens_server/demo/pictures/ATTRIBUTION.md",
    ],
)
def test_it_holds(names, name):
    assert name in names


def test_it_holds_two_packages_and_nothing_else(names):
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {
        "pairlens",
        "pairlens_server",
    }
