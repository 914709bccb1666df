"""Readers of files, in this process and, guided by coverage, in one of their own."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.corpus import CORPUS
from tests.fuzz.mutators import MUTATORS
from tests.fuzz.targets import TARGETS

_GUIDED_S = 4

guided = pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None, reason="atheris is not installed"
)


@pytest.mark.parametrize("name", TARGETS)
def test_what_is_right_is_read(name):
    for data in CORPUS[name]():
        TARGETS[name](data)


@pytest.mark.parametrize("name", TARGETS)
@given(random=st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_what_is_changed_is_read_or_refused(name, random):
    data = random.choice(_corpus(name))
    for _ in range(random.choice((1, 3))):
        data = MUTATORS[name](random, data)
    TARGETS[name](data)


_KNOWN: dict[str, list[bytes]] = {}


def _corpus(name: str) -> list[bytes]:
    if name not in _KNOWN:
        _KNOWN[name] = CORPUS[name]()
    return _KNOWN[name]


def _run(
    arguments: list[str], folder: Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments, f"-artifact_prefix={folder}/"],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        timeout=240,
        check=False,
    )


@guided
def test_all_readers_in_turns_guided_by_coverage(tmp_path):
    arguments = ["-m", "tests.fuzz.guided", "all", f"-max_total_time={_GUIDED_S}"]
    done = _run(arguments, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "DONE" in done.stderr
    assert not list(tmp_path.iterdir())


@guided
def test_a_finding_ends_with_a_file_that_shows_it(tmp_path):
    script = tmp_path / "finding.py"
    script.write_text(
        # First the readers: what is there already is not instrumented, which takes seconds.
        "import tests.fuzz.targets\n"
        "from tests.fuzz import guided\n"
        "def broken(data):\n"
        "    assert b'retrieval' not in data, 'the finding'\n"
        "guided.TARGETS['tokens'] = broken\n"
        "import sys; guided.main(sys.argv[1:])\n"
    )
    found = _run(
        [str(script), "tokens", "-runs=1000"], tmp_path, PYTHONPATH=os.pathsep.join(sys.path)
    )
    assert found.returncode != 0
    assert "AssertionError: the finding" in found.stderr + found.stdout
    (kept,) = tmp_path.glob("crash-*")
    assert b"retrieval" in kept.read_bytes()
