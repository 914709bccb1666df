"""Nobody takes the log: its disk is full, its pipe is broken, its reader has stopped."""

import os
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.faults.calls import until
from tests.faults.holdings import gives_back
from tests.faults.sdk_load import sdk_load
from tests.server_process import server_process, write_models

DROPPED = "pairlens_log_lines_dropped_total"
# Runs what follows with its standard error on a disk of its own, on which nothing is left.
FULL_DISK = """
mount -t tmpfs -o size=64k tmpfs "$0" && head -c 1m /dev/zero > "$0/ballast" 2> /dev/null
exec "$@" 2> "$0/log.txt"
"""


@pytest.fixture
def models(tmp_path):
    return write_models(tmp_path, ["tiny-vit", "tiny-resnet"])


@contextmanager
def serving(models, log_file, **options):
    flags = ("--metrics-listen", "127.0.0.1:0", "--log-format", "json", "--drain-s", "10")
    with server_process(models, log_file, *flags, **options) as server:
        server.listening()
        server.metrics_address()
        server.serving()
        yield server


def calls_go_on(server, count=100):
    """None fails, none waits for the log, and what is not written is counted."""
    with sdk_load([server.target]) as (report,):
        report.await_more(50)
        with gives_back(server.process.pid):
            report.await_more(count)
    assert not report.failures, report.failures
    assert report.slowest_s() < 10
    assert server.get("/livez")[0] == server.get("/readyz")[0] == 200


def test_a_device_that_is_full(models):
    with serving(models, Path("/dev/full")) as server:
        calls_go_on(server)
        assert server.scrape().value(DROPPED) >= 100
        assert server.stop() == 0


def test_a_disk_that_is_full_and_has_room_again(models, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    prefix = ("unshare", "--mount", "sh", "-c", FULL_DISK, str(disk))
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("a disk of its own needs root and unshare")
    if subprocess.run([*prefix, "true"], capture_output=True).returncode != 0:
        pytest.skip("no file system can be mounted here")
    with serving(models, tmp_path / "unused.txt", prefix=prefix) as server:
        seen = Path(f"/proc/{server.process.pid}/root") / disk.relative_to("/")
        calls_go_on(server)
        assert (seen / "log.txt").stat().st_size == 0
        assert server.scrape().value(DROPPED) >= 100
        (seen / "ballast").unlink()
        calls_go_on(server, 5)
        until(lambda: '"rpc"' in (seen / "log.txt").read_text(), "calls are logged again")
        assert server.stop() == 0


@pytest.mark.parametrize("broken", [False, True], ids=["never read", "broken"])
def test_a_pipe(models, broken):
    reading, writing = os.pipe()
    try:
        with serving(models, Path(f"/dev/fd/{writing}")) as server:
            os.close(writing)
            writing = None
            if broken:
                os.close(reading)
                reading = None
            # More than the 64 KiB that a pipe holds.
            calls_go_on(server, 300)
            # A drain waits for no reader, either.
            assert server.stop() == 0
    finally:
        for end in (reading, writing):
            if end is not None:
                os.close(end)
