"""The committed stubs are what `make protos` makes of the protos."""

import filecmp
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
GENERATOR_PYTHON = ROOT / ".venv-protoc" / "bin" / "python"
COMMITTED = ROOT / "client" / "pairlens" / "v1"


@pytest.fixture(scope="module")
def regenerated(tmp_path_factory):
    assert GENERATOR_PYTHON.exists(), "run the tests with `make test`, which installs protoc"
    out = tmp_path_factory.mktemp("stubs")
    subprocess.run(
        [
            sys.executable,
            ROOT / "protos" / "generate.py",
            "--python",
            GENERATOR_PYTHON,
            "--out",
            out,
        ],
        check=True,
    )
    return out / "pairlens" / "v1"


def test_regenerating_changes_nothing(regenerated):
    fresh = {path.name for path in regenerated.iterdir()}
    kept = {path.name for path in COMMITTED.glob("*_pb2*")}
    assert fresh == kept
    _, differing, missing = filecmp.cmpfiles(regenerated, COMMITTED, sorted(fresh), shallow=False)
    assert not differing
    assert not missing


def test_every_message_and_service_has_a_type_stub(regenerated):
    for proto in (ROOT / "protos" / "pairlens" / "v1").glob("*.proto"):
        assert (regenerated / f"{proto.stem}_pb2.pyi").exists()
    assert len(list(regenerated.glob("*_service_pb2_grpc.pyi"))) == 4


def test_every_rpc_of_the_contract_is_described():
    for proto in (ROOT / "protos" / "pairlens" / "v1").glob("*.proto"):
        lines = proto.read_text().splitlines()
        for number, line in enumerate(lines):
            if line.strip().startswith("rpc "):
                assert lines[number - 1].strip().startswith("//"), f"{proto.name}:{number + 1}"
