"""Contracts of other versions, and who speaks them."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.compat import descriptors
from tests.compat.descriptors import FileSet

NAMES = [path.stem for path in descriptors.frozen()]
# The last commit that changed the protos, and the one before it: in a work tree with changes
# the first is the contract before them, otherwise the second is.
HISTORY = ["last commit", "commit before"]
START_S = 60


@pytest.fixture(scope="session", params=[*NAMES, *HISTORY])
def older(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> FileSet:
    """The contract of a release, or of the history of this repository where it is there."""
    if request.param not in HISTORY:
        return descriptors.read(descriptors.FROZEN / f"{request.param}.binpb")
    revisions = descriptors.revisions()
    index = HISTORY.index(request.param)
    if index >= len(revisions):
        pytest.skip("this clone has no such commit")
    try:
        return descriptors.of_revision(revisions[index], tmp_path_factory.mktemp("protos"))
    except descriptors.NotHere as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def old_target(
    older: FileSet, server_target: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """HOST:PORT of a server that speaks the older contract, in a process of its own."""
    contract = tmp_path_factory.mktemp("contract") / "set.binpb"
    contract.write_bytes(older.SerializeToString())
    command = [sys.executable, "-m", "tests.compat.old_server", str(contract), server_target]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).resolve().parents[2]
    )
    alarm = threading.Timer(START_S, process.kill)
    alarm.start()
    try:
        assert process.stdout is not None
        words = process.stdout.readline().split()
        assert words[:2] == ["listening", "on"]
        yield words[2]
    finally:
        alarm.cancel()
        process.kill()
        process.wait()
