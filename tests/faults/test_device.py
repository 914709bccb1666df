"""A device that dies under a server: callers are told, and the process ends to be started anew."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.contract.support import png
from tests.faults.calls import BYPASS, Caller, Explain, inline
from tests.server_process import STOP_TIMEOUT_S, ServerProcess, write_models

MODEL = "tiny-vit"
ANSWERED = 3
CALLS = 12
PROMPTLY_S = 5.0

# The process is the real one; only a pass of the model fails, once a file is there.
_DYING = """
import sys
from pathlib import Path
from torch.nn.modules.module import register_module_forward_pre_hook
from pairlens_server.app import main

dead = Path(sys.argv[1])

def fail(module, inputs):
    if dead.exists():
        raise RuntimeError("CUDA error: device-side assert triggered")

register_module_forward_pre_hook(fail)
sys.exit(main(sys.argv[2:]))
"""


def explain(number: int) -> Explain:
    return Explain(
        model=MODEL, image=inline(png(number)), method={"raw_attention": {}}, cache=BYPASS
    )


def code_of(error: BaseException | None) -> grpc.StatusCode | None:
    return error.code() if isinstance(error, grpc.RpcError) else None


def is_serving(target: str) -> bool:
    with grpc.insecure_channel(target) as channel:
        check = health_pb2_grpc.HealthStub(channel).Check
        try:
            status = check(health_pb2.HealthCheckRequest(), timeout=PROMPTLY_S).status
        except grpc.RpcError as error:
            return code_of(error) is not grpc.StatusCode.UNAVAILABLE
    return bool(status == health_pb2.HealthCheckResponse.SERVING)


def test_a_device_that_is_dead_at_the_start_may_be_tried_again(tmp_path: Path):
    dead = tmp_path / "dead"
    dead.touch()
    command = [sys.executable, "-c", _DYING, str(dead), "--listen", "127.0.0.1:0"]
    command += ["--models", str(write_models(tmp_path, [MODEL]))]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 1, found.stderr
    assert f"pairlens-server: model '{MODEL}': cannot run at 32 x 48: CUDA error" in found.stderr


@pytest.mark.parametrize("flags", [("--max-batch", "2"), ("--max-batch", "16")])
def test_a_dead_device_is_told_to_all_and_ends_the_process(tmp_path: Path, flags: tuple[str, ...]):
    dead, log_file = tmp_path / "dead", tmp_path / "log.txt"
    command = [sys.executable, "-c", _DYING, str(dead), "--listen", "127.0.0.1:0"]
    command += ["--models", str(write_models(tmp_path, [MODEL])), "--torch-threads", "1", *flags]
    with (
        log_file.open("w", encoding="utf-8") as log,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True) as process,
    ):
        try:
            server = ServerProcess(process, log)
            server.listening()
            server.serving()
            with Caller(server.target) as caller:
                for number in range(ANSWERED):
                    assert caller.send(explain(number)).HasField("heatmap")
                dead.touch()
                begun = time.monotonic()
                futures = [caller.begin(explain(number)) for number in range(CALLS)]
                codes = {code_of(future.exception()) for future in futures}
                assert codes == {grpc.StatusCode.UNAVAILABLE}
                assert not is_serving(server.target)
                with pytest.raises(grpc.RpcError) as caught:
                    caller.send(explain(0))
                assert code_of(caught.value) is grpc.StatusCode.UNAVAILABLE
                assert time.monotonic() - begun < PROMPTLY_S
            assert process.wait(STOP_TIMEOUT_S) == 1
        finally:
            process.kill()
        written = server.read_log()
    assert "device-side assert" in written
    assert "the engine died" in written
