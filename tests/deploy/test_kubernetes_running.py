"""What the manifests start does start, serves, and stops as they say.

The very commands, variables, settings, paths, ports, names and users of the manifests run here, on
the environment that the Containerfile builds: a server with the demo models, TLS, tokens and Redis,
and the job that warms its cache.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme

from pairlens_server.demo.pairs import MODELS_FILE
from tests.deploy.pod_sandbox import Cluster, cluster, needs_namespaces
from tests.deploy.rendering import (
    Document,
    container,
    needs_kubectl,
    one,
    with_components,
)
from tests.deploy.test_container_file import health_command
from tests.redis_server import redis_executable

pytestmark = [needs_kubectl, needs_namespaces]

PASSWORD, TOKEN = "5f9a1c", "0123456789abcdef0123"
SERVER = ("cpu-dev", "redis-in-cluster", "tls", "tokens")
JOB_UID = "0f2c7c52-6c0e-4f6d-9c4b-6f3d0a1b2c3d"
PICTURES = MODELS_FILE.parent / "pictures"
START_S = 120.0
COLUMNS = ("pictures", "computed", "cached", "finished before", "failed", "other files")


@dataclass
class Running:
    """The overlay at work.

    Attributes:
        cluster: Its network.
        documents: What is deployed.
        server: The process.
        redis: The process.
        log: Of the server.
    """

    cluster: Cluster
    documents: tuple[Document, ...]
    server: subprocess.Popen[str]
    redis: subprocess.Popen[str]
    log: Path

    def run(self, *command: str, variables: Mapping[str, str] | None = None) -> str:
        """What a program of the image prints, in the network of the cluster."""
        place = str(self.cluster.image / "opt" / "pairlens" / "bin" / command[0])
        settings = [f"{name}={value}" for name, value in (variables or {}).items()]
        full = self.cluster.inside("env", *settings, place, *command[1:])
        result = subprocess.run(full, capture_output=True, text=True, check=False, timeout=START_S)
        assert result.returncode == 0, result.stdout + result.stderr + self.log.read_text("utf-8")
        return result.stdout

    def get(self, path: str) -> str:
        """What the port of the metrics answers."""
        code = "import sys, urllib.request as r; print(r.urlopen(sys.argv[1]).read().decode())"
        return self.run("python", "-I", "-c", code, f"http://127.0.0.1:9464{path}")


@pytest.fixture(scope="module")
def running(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("cluster")
    gallery, state = folder / "gallery", folder / "state"
    shutil.copytree(PICTURES, gallery)
    state.mkdir(mode=0o777)
    state.chmod(0o777)
    programs = folder / "programs"  # the image of Redis
    programs.mkdir()
    shutil.copy(redis_executable(), programs / "redis-server")
    client = Path(redis_executable()).with_name("redis-cli")
    if client.exists():
        shutil.copy(client, programs)
    documents = with_components(*SERVER)
    claims = {"pairlens-gallery": gallery, "pairlens-warm-state": state}
    secrets = made_secrets()
    processes = []
    with cluster(folder, built, secrets, claims) as made:
        try:
            redis = made.start(
                documents,
                "StatefulSet/pairlens-redis",
                folder / "redis.log",
                {"PATH": f"{programs}:/usr/bin:/bin"},
                (programs,),
            )
            processes.append(redis)
            log = folder / "server.log"
            server = made.start(documents, "Deployment/pairlens", log)
            processes.append(server)
            found = Running(made, documents, server, redis, log)
            wait_until_ready(found)
            yield found
        finally:
            for process in processes:
                process.kill()
                process.wait()


def made_secrets() -> dict[str, dict[str, str]]:
    """As the README has people make them."""
    authority = trustme.CA()
    issued = authority.issue_cert("pairlens")
    return {
        "pairlens-redis": {"password": f"{PASSWORD}\n"},
        "pairlens-tokens": {"tokens.yaml": f"- {{name: retrieval, token: {TOKEN}}}\n"},
        "pairlens-tls": {
            "tls.crt": issued.cert_chain_pems[0].bytes().decode(),
            "tls.key": issued.private_key_pem.bytes().decode(),
        },
        "pairlens-client": {
            "ca.crt": authority.cert_pem.bytes().decode(),
            "token": f"{TOKEN}\n",
        },
    }


def wait_until_ready(found: Running) -> None:
    """Ask as the HEALTHCHECK of the image does."""
    check = found.cluster.inside(
        str(found.cluster.image / "opt" / "pairlens" / "bin" / "python"), *health_command()[1:]
    )
    end = time.monotonic() + START_S
    while subprocess.run(check, capture_output=True, check=False).returncode != 0:
        assert found.server.poll() is None, found.log.read_text("utf-8")
        assert time.monotonic() < end, found.log.read_text("utf-8")
        time.sleep(1)  # each look starts a Python, beside a server that wants the processor


def test_the_probes_of_the_manifest_are_answered(running: Running):
    server = container(running.documents)
    for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert running.get(server[kind]["httpGet"]["path"]).strip() == "ok"


def test_it_runs_as_nobody_who_could_harm(running: Running):
    status = Path(f"/proc/{running.server.pid}/status").read_text("utf-8")
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert set(fields["Uid"].split()) == {"10001"}
    assert int(fields["CapEff"], 16) == int(fields["CapBnd"], 16) == 0
    assert fields["NoNewPrivs"].strip() == "1"

    def written(path: str) -> bool:
        command = running.cluster.within(running.server, "touch", path)
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    assert written("/tmp/here")
    assert not written("/here")
    assert not written("/etc/pairlens/here")


def test_it_explains_to_whom_it_knows(running: Running, tmp_path: Path):
    for name, text in running.cluster.secrets["pairlens-client"].items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    settings = {
        # The name in the certificate is known in the cluster alone.
        "PAIRLENS_SERVER": "127.0.0.1:50051",
        "PAIRLENS_SERVER_NAME": "pairlens",
        "PAIRLENS_CA_FILE": str(tmp_path / "ca.crt"),
    }
    command = ("pairlens", "explain", str(PICTURES / "lamp-1.jpg"), "--json", "--model")
    with pytest.raises(AssertionError, match="token"):
        running.run(*command, "demo-vit", variables=settings)
    settings["PAIRLENS_TOKEN_FILE"] = str(tmp_path / "token")
    for model in ("demo-vit", "demo-resnet"):
        assert json.loads(running.run(*command, model, variables=settings))


def test_what_autoscalers_ask_for_is_there_while_nothing_waits(running: Running):
    found = re.findall(r"^pairlens_queue_depth\{.*\} (\S+)$", running.get("/metrics"), re.MULTILINE)
    assert found  # KEDA and the adapter would take nothing for a failure
    assert all(float(value) == 0 for value in found)


def test_redis_is_used_with_its_password(running: Running):
    assert re.search(r"^pairlens_redis_up 1\.0$", running.get("/metrics"), re.MULTILINE)
    assert asked_of_redis(running, "CONFIG GET maxmemory-policy") == b"NOAUTH"
    assert asked_of_redis(running, f"AUTH {PASSWORD}", "CONFIG GET maxmemory-policy") == (
        b"allkeys-lfu"
    )
    assert asked_of_redis(running, f"AUTH {PASSWORD}", "CONFIG GET maxmemory") == (
        str(6 * 2**30).encode()
    )


def test_the_probe_of_redis(running: Running):
    probe = container(running.documents, "StatefulSet")["readinessProbe"]["exec"]["command"]
    programs = running.cluster.folder / "programs"
    if not (programs / "redis-cli").exists():
        pytest.skip("there is no redis-cli beside redis-server")
    found = ["env", f"PATH={programs}:/usr/bin:/bin"]

    def answer() -> int:
        command = running.cluster.within(running.redis, *found, *probe)
        return subprocess.run(command, capture_output=True, check=False).returncode

    assert answer() == 0
    probe = [part.replace("cat ", "echo not ") for part in probe]  # another password
    assert answer() != 0


def asked_of_redis(running: Running, *lines: str) -> bytes:
    """The last word of Redis's answer, or the kind of its refusal."""
    code = (
        "import socket, sys; s = socket.create_connection(('127.0.0.1', 6379), 5);"
        "[s.sendall(line.encode() + b'\\r\\n') for line in sys.argv[1:]];"
        "s.shutdown(socket.SHUT_WR); f = s.makefile('rb'); print(f.read().decode())"
    )
    answer = running.run("python", "-I", "-c", code, *lines).split()
    return (answer[0].lstrip("-") if answer[0].startswith("-") else answer[-1]).encode()


def test_the_job_warms_every_part_and_goes_on(running: Running, tmp_path: Path):
    documents = with_components("warm", "client-credentials")
    job = one(documents, "Job")["spec"]
    pictures = len(list(PICTURES.glob("*.jpg")))
    indices = range(job["completions"])
    rows: list[dict[str, int]] = []
    for begin in range(0, len(indices), job["parallelism"]):
        rows += warmed(running, indices[begin : begin + job["parallelism"]], documents, tmp_path)
    assert sum(row["pictures"] for row in rows) == pictures
    assert sum(row["computed"] + row["cached"] for row in rows) == pictures
    # Again, as after a failure: its state says that all is done.
    index = max(indices, key=lambda i: rows[i]["pictures"])
    (again,) = warmed(running, [index], documents, tmp_path)
    assert again["finished before"] == again["pictures"] == rows[index]["pictures"] > 0
    assert again["computed"] == again["cached"] == again["failed"] == 0
    names = {i: f"demo-vit-{i}-of-{len(indices)}.{JOB_UID}" for i in indices}
    assert states(running) == set(names.values())
    # Another job, as after Redis was emptied: the server is asked.
    (anew,) = warmed(running, [index], documents, tmp_path, "another")
    assert anew["computed"] + anew["cached"] == anew["pictures"] == rows[index]["pictures"]
    names[index] = f"demo-vit-{index}-of-{len(indices)}.another"
    assert states(running) == set(names.values())


def states(running: Running) -> set[str]:
    """Names of the files on the volume of the job."""
    return {path.name for path in running.cluster.claims["pairlens-warm-state"].iterdir()}


def warmed(
    running: Running,
    indices: Sequence[int],
    documents: tuple[Document, ...],
    folder: Path,
    job_uid: str = JOB_UID,
) -> list[dict[str, int]]:
    """Run parts of a job at the same time; what each says of its work."""
    logs = [folder / f"{uuid.uuid4()}.log" for _ in indices]
    processes = []
    for index, log in zip(indices, logs, strict=True):
        set_by_kubernetes = {"JOB_COMPLETION_INDEX": str(index), "JOB_UID": job_uid}
        processes.append(
            running.cluster.start(documents, "Job/pairlens-warm", log, set_by_kubernetes)
        )
    rows = []
    for process, log in zip(processes, logs, strict=True):
        assert process.wait(START_S) == 0, log.read_text("utf-8")
        (row,) = (line for line in log.read_text("utf-8").splitlines() if "demo-vit" in line)
        rows.append(dict(zip(COLUMNS, map(int, row.split()[1:]), strict=True)))
    return rows


def test_sigterm_ends_it_within_its_grace(running: Running):
    """The last of this module, since nothing runs after it."""
    pod = next(d for d in running.documents if d["kind"] == "Deployment")["spec"]["template"]
    asleep_s = container(running.documents)["lifecycle"]["preStop"]["sleep"]["seconds"]
    running.server.terminate()
    grace_s = pod["spec"]["terminationGracePeriodSeconds"] - asleep_s
    assert running.server.wait(grace_s) == 0, running.log.read_text("utf-8")
