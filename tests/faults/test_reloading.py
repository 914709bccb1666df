"""Models come, change and go on a server that is called without pause."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from pairlens.v1 import (
    admin_service_pb2,
    admin_service_pb2_grpc,
    model_service_pb2,
    model_service_pb2_grpc,
)
from tests.contract.support import failure_of, failure_of_rpc, png
from tests.faults.calls import BYPASS, DEFAULT, Caller, Explain, content, inline, until
from tests.faults.load import beside
from tests.reloading import Folder, entry, random_entry
from tests.server_process import ServerProcess, server_process

TIMEOUT_S = 60
PICTURES = [png(seed) for seed in range(4)]
METHODS = ("rollout", "grad_cam", "occlusion")

# Of no model that is reloaded.
UNTOUCHED = random_entry("tiny-vit-cls")
A, B = entry("a"), entry("b")


class Administrator:
    """Reloads, and looks at what is served."""

    def __init__(self, target: str):
        self.channel = grpc.insecure_channel(target)
        self._admin = admin_service_pb2_grpc.AdminServiceStub(self.channel)
        self._models = model_service_pb2_grpc.ModelServiceStub(self.channel)
        self._health = health_pb2_grpc.HealthStub(self.channel)

    def begin(self) -> Any:
        """A reload, as a future."""
        request = admin_service_pb2.ReloadModelsRequest()
        return self._admin.ReloadModels.future(request, timeout=TIMEOUT_S)

    def reload(self) -> dict[str, str]:
        """What became of each model."""
        return self.kinds(self.begin().result())

    @staticmethod
    def kinds(answer: admin_service_pb2.ReloadModelsResponse) -> dict[str, str]:
        name = admin_service_pb2.ModelChangeKind.Name
        return {
            change.model: name(change.change).removeprefix("MODEL_CHANGE_KIND_").lower()
            for change in answer.changes
        }

    def fingerprints(self) -> dict[str, str]:
        """Of what is served, by name."""
        answer = self._models.ListModels(model_service_pb2.ListModelsRequest(), timeout=TIMEOUT_S)
        return {model.name: model.fingerprint for model in answer.models}

    def health(self, model: str) -> str:
        """Of a model."""
        request = health_pb2.HealthCheckRequest(service=f"models/{model}")
        try:
            status = self._health.Check(request, timeout=TIMEOUT_S).status
        except grpc.RpcError as error:
            return str(error.code().name)
        return health_pb2.HealthCheckResponse.ServingStatus.Name(status)


@dataclass
class Served:
    """A server and the folder that it serves."""

    server: ServerProcess
    folder: Folder
    admin: Administrator

    def until_logged(self, words: str) -> None:
        """Wait for a line of the log, which is written in the background."""
        until(lambda: words in self.server.read_log(), words, TIMEOUT_S)


@contextmanager
def served(path: Path, *entries: dict[str, Any], flags: Sequence[str] = ()) -> Iterator[Served]:
    """Serve models; answers of one have the same bits whenever they are computed."""
    folder = Folder(path)
    for seed, declared in enumerate(entries):
        if "checkpoint" in declared:
            folder.weights(declared["name"], seed)
    folder.declare(*entries)
    command = ("--max-batch", "1", "--log-calls", "failed", *flags)
    with server_process(folder.file, path / "log.txt", *command) as server:
        server.listening()
        server.serving()
        admin = Administrator(server.target)
        yield Served(server, folder, admin)
        admin.channel.close()
        assert server.stop() == 0, server.read_log()
        log = server.read_log()
        assert "internal error" not in log, log
        assert "Traceback" not in log, log


@dataclass
class Report:
    """What calls of one model came to.

    Attributes:
        failures: Reasons, and texts for people.
        answers: By request and fingerprint of the model: distinct answers.
        calls: That were answered.
    """

    failures: list[tuple[str, str]] = field(default_factory=list)
    answers: dict[tuple[int, str, str], set[bytes]] = field(default_factory=dict)
    calls: int = 0

    @property
    def fingerprints(self) -> set[str]:
        return {fingerprint for _, _, fingerprint in self.answers}


@contextmanager
def load(target: str, *models: str) -> Iterator[dict[str, Report]]:
    """Call each model on two threads until the block ends."""
    stop, lock = threading.Event(), threading.Lock()
    reports = {model: Report() for model in models}

    def work(model: str, number: int) -> None:
        report, turn = reports[model], number
        with Caller(target, f"{model}-{number}") as caller:
            while not stop.is_set():
                turn += 1
                picture, method = turn % len(PICTURES), METHODS[turn % len(METHODS)]
                request = Explain(
                    model=model,
                    image=inline(PICTURES[picture]),
                    method={method: {}},
                    cache=DEFAULT if turn % 5 else BYPASS,
                )
                one(caller, request, report, (picture, method), lock)

    with beside([lambda m=m, n=n: work(m, n) for m in models for n in range(2)]):
        try:
            yield reports
        finally:
            stop.set()


def one(
    caller: Caller, request: Any, report: Report, asked: tuple[int, str], lock: threading.Lock
) -> None:
    try:
        answer = caller.send(request)
    except grpc.RpcError as error:
        found = failure_of_rpc(error)
        report.failures.append((found.reason, found.message))
        return
    with lock:
        report.calls += 1
        key = (*asked, answer.provenance.model_fingerprint)
        report.answers.setdefault(key, set()).add(content(answer))


def more(reports: dict[str, Report], count: int = 8) -> None:
    """Wait until each model has answered some more calls."""
    wanted = {model: report.calls + count for model, report in reports.items()}
    until(
        lambda: all(report.calls >= wanted[model] for model, report in reports.items()),
        "more calls are answered",
        TIMEOUT_S,
    )


def test_a_model_is_replaced_under_load_and_no_call_fails(tmp_path):
    with (
        served(tmp_path, UNTOUCHED, A, flags=("--metrics-listen", "127.0.0.1:0")) as it,
        load(it.server.target, "tiny-vit-cls", "a") as seen,
    ):
        it.server.metrics_address()
        fingerprints = [it.admin.fingerprints()["a"]]
        for seed in range(10, 14):
            more(seen)
            it.folder.weights("a", seed)
            if seed % 2:
                assert it.admin.reload() == {"tiny-vit-cls": "unchanged", "a": "replaced"}
            else:
                it.server.process.send_signal(signal.SIGHUP)
                until(
                    lambda: it.admin.fingerprints()["a"] != fingerprints[-1], "a SIGHUP", TIMEOUT_S
                )
            fingerprints.append(it.admin.fingerprints()["a"])
            # What is answered from now on is the new one's.
            with Caller(it.server.target) as caller:
                answer = caller.send(Explain(model="a", image=inline(PICTURES[0])))
            assert answer.provenance.model_fingerprint == fingerprints[-1]
            assert it.admin.health("a") == "SERVING"
        more(seen)
        it.until_logged("a: the former model is unloaded")
        last = {"model": "a", "fingerprint": fingerprints[-1]}
        # Looked at some times a second.
        until(lambda: it.server.scrape().value("pairlens_model_info", **last) == 1, "it is shown")
        metrics = it.server.scrape()
        assert metrics.value("pairlens_model_changes_total", change="replaced") == 4
        assert metrics.value("pairlens_model_info", model="a") == 1
    for report in seen.values():
        assert not report.failures, report.failures[:3]
    assert len(set(fingerprints)) == 5
    assert len(seen["tiny-vit-cls"].fingerprints) == 1
    assert seen["a"].fingerprints == set(fingerprints)
    # Each answer is that of the model which it names, whichever was served by the time it came.
    for report in seen.values():
        assert all(len(answers) == 1 for answers in report.answers.values())
    for picture, method, _ in seen["a"].answers:
        own = [a for key, a in seen["a"].answers.items() if key[:2] == (picture, method)]
        assert len(set.union(*own)) == len(own)


def test_models_are_added_and_removed_under_load(tmp_path):
    with served(tmp_path, UNTOUCHED) as it, load(it.server.target, "tiny-vit-cls") as untouched:
        assert it.admin.health("a") == "NOT_FOUND"
        for _ in range(2):
            it.folder.weights("a", 1)
            it.folder.declare(UNTOUCHED, A)
            assert it.admin.reload() == {"tiny-vit-cls": "unchanged", "a": "added"}
            assert it.admin.health("a") == "SERVING"
            with load(it.server.target, "a") as added:
                more(added)
            assert not added["a"].failures
            with load(it.server.target, "a") as removed:
                more(removed)
                it.folder.declare(UNTOUCHED)
                it.server.process.send_signal(signal.SIGHUP)
                until(lambda: it.admin.health("a") == "NOT_FOUND", "it is removed", TIMEOUT_S)
                until(lambda: len(removed["a"].failures) > 3, "it is unknown", TIMEOUT_S)
            assert {reason for reason, _ in removed["a"].failures} == {"MODEL_NOT_FOUND"}
        more(untouched)
    assert not untouched["tiny-vit-cls"].failures


def test_what_cannot_be_loaded_leaves_the_model_as_it_is(tmp_path):
    with served(tmp_path, UNTOUCHED, A, B) as it, load(it.server.target, "a") as seen:
        before = it.admin.fingerprints()
        proof = it.folder.hostile("hostile.pth")
        it.folder.declare(UNTOUCHED, entry("a", checkpoint="hostile.pth"), B)
        answer = it.admin.begin().result()
        assert it.admin.kinds(answer) == {
            "tiny-vit-cls": "unchanged",
            "a": "failed",
            "b": "unchanged",
        }
        failed = answer.changes[1]
        assert failed.fingerprint == before["a"]
        found = failure_of(failed.error)
        assert (found.code, found.reason) == ("FAILED_PRECONDITION", "CONFIGURATION_INVALID")
        assert "holds objects that are not loaded" in found.message
        it.folder.file.write_text("models: [")
        with pytest.raises(grpc.RpcError) as caught:
            it.admin.reload()
        found = failure_of_rpc(caught.value)
        assert (found.code, found.reason) == ("FAILED_PRECONDITION", "CONFIGURATION_INVALID")
        it.server.process.send_signal(signal.SIGHUP)
        until(
            lambda: it.server.read_log().count("models are left as they were: models.yaml") == 2,
            "a SIGHUP",
        )
        more(seen)
        assert it.admin.fingerprints() == before
        assert not proof.exists()
        it.folder.declare(UNTOUCHED, A, B)
        assert set(it.admin.reload().values()) == {"unchanged"}
    assert not seen["a"].failures
    assert seen["a"].fingerprints == {before["a"]}


def test_reloads_at_once_and_one_whose_caller_is_gone(tmp_path):
    with served(tmp_path, UNTOUCHED) as it:
        it.folder.weights("a", 1)
        it.folder.declare(UNTOUCHED, A)
        answers = [call.result() for call in [it.admin.begin() for _ in range(6)]]
        found = [it.admin.kinds(answer)["a"] for answer in answers]
        assert found.count("added") == 1
        assert set(found) == {"added", "unchanged"}
        it.folder.weights("a", 2)
        call = it.admin.begin()
        # It has begun: what comes after it waits for it.
        last = it.admin.begin()
        call.cancel()
        assert it.admin.kinds(last.result())["a"] in ("replaced", "unchanged")
        it.until_logged("model a: replaced")


def test_sighup_while_it_loads_is_made_up_for(tmp_path):
    folder = Folder(tmp_path)
    folder.weights("a", 1)
    folder.declare(UNTOUCHED)
    with server_process(folder.file, tmp_path / "log.txt") as server:
        server.listening()
        folder.declare(UNTOUCHED, A)
        # Else it would end the process.
        server.process.send_signal(signal.SIGHUP)
        server.serving()
        admin = Administrator(server.target)
        until(lambda: "a" in admin.fingerprints(), "it is added")
        admin.channel.close()
        assert server.stop() == 0


WIDE = {
    "architecture_options": {"embed_dim": 768, "depth": 1, "num_heads": 2, "patch_size": 16},
    "preprocessing": {"size": [32, 32]},
    "classes": 0,
    "random_weights": True,
    "checkpoint": None,
}
_WIDE_BYTES = 7 * 768**2 * 4  # about: one block, and little else


def test_memory_of_models_that_went_is_given_back(tmp_path):
    """Each of them would otherwise stay."""
    with served(tmp_path, entry("wide", seed=0, **WIDE)) as it:
        process = psutil.Process(it.server.process.pid)
        sizes = []
        for seed in range(1, 13):
            it.folder.declare(entry("wide", seed=seed, **WIDE))
            assert it.admin.reload() == {"wide": "replaced"}
            until(
                lambda s=seed: it.server.read_log().count("the former model is unloaded") == s,
                "it is unloaded",
            )
            sizes.append(process.memory_info().rss)
    # The first ones make room that the later ones use.
    assert sizes[-1] - sizes[3] < 3 * _WIDE_BYTES, sizes
