"""The commands of 'Operating pairlens' that need no cluster: someone follows them here."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest
import yaml

from deploy.local.ports import HOST, Ports
from tests.docs.operating_walk import HERE, Walk, alerts_in, block, missing_programs
from tests.faults.calls import until
from tests.prometheus_server import PrometheusProcess
from tests.server_process import STOP_TIMEOUT_S

# Blocks are named by something that stands in them alone.
ALERTS, OPENSSL, READ_AGAIN = "/api/v1/alerts", "openssl req", "kill -HUP $(jq"
SECOND = "mine/second"
SLOW_S = 90.0

pytestmark = pytest.mark.skipif(
    bool(missing_programs()), reason=f"not installed: {', '.join(missing_programs())}"
)


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Walk]:
    walk = Walk(tmp_path_factory.mktemp("top"))
    walk.do("mkdir mine\n")
    walk.write("# mine/models.yaml")
    walk.do("> mine/ops.token")
    walk.do(OPENSSL)
    walk.write("# mine/config.yaml")
    with walk.start():
        yield walk


def firing(walk: Walk, alert: tuple[str, ...]) -> bool:
    return alert in alerts_in(walk.do(ALERTS))


def token(walk: Walk, name: str) -> str:
    return (walk.folder / "mine" / f"{name}.token").read_text(encoding="utf-8").strip()


def test_it_serves(walk: Walk):
    said = walk.do("pairlens server status --wait")
    assert "serves" in said
    assert "shop" in said


def test_a_pair_is_drawn(walk: Walk):
    said = walk.do("--out pairs.png")
    similarities = dict(re.findall(r"(lamp-2|pigeon-1)\.jpg +([\d.]+)", said))
    assert float(similarities["lamp-2"]) > float(similarities["pigeon-1"])
    assert (walk.folder / "pairs.png").stat().st_size > 10_000


def test_a_gallery_is_warm_the_second_time(walk: Walk):
    walk.do("pairlens warm $pictures")
    # Redis has it for both replicas some milliseconds later.
    until(lambda: counts(walk.do("pairlens warm $pictures"))["cached"] == 6, "all is cached")


def counts(said: str) -> dict[str, int]:
    heading, row = re.search(r"^ *model +(pictures.+)$\n.+\n +shop +([\d ]+)$", said, re.M).groups()
    return dict(zip(re.split(r" {2,}", heading.strip()), map(int, row.split()), strict=True))


def test_prometheus_sees_it(walk: Walk):
    def seen() -> bool:
        said = walk.do("promtool query")
        return '{code="OK", rpc="PairSimilarity"} => ' in said

    until(seen, "the pair is counted", SLOW_S)
    lines = walk.do("promtool query").splitlines()
    assert lines[0] == "ok"
    assert any(re.fullmatch(r"pairlens_rpc_handled_total\{.*\} [\d.]+", line) for line in lines)


def test_a_broken_models_file_is_an_alert(walk: Walk):
    # A counter that was never seen at 0 is not seen to grow.
    url = walk.running.state["prometheus"]
    prometheus = PrometheusProcess(url, walk.running.process, walk.folder)  # type: ignore[arg-type]
    prometheus.wait_for('count(pairlens_model_changes_total{change="failed"} == 0) == 2')
    said = walk.do("exit code $?")
    assert said.count("exit code 3") == 2
    assert said.count("gone.safetensors: no such file") == 2
    expected = ("PairlensModelReloadFailed", "ticket", "firing")
    until(lambda: firing(walk, expected), "the alert fires", SLOW_S)
    walk.do(READ_AGAIN)
    until(lambda: walk.running.logs().count("model shop: unchanged") == 2, "both read it again")


def test_a_redis_that_hangs_is_an_alert(walk: Walk):
    said = walk.do("pkill -STOP")
    assert said.count("lamp-1.jpg") == 4
    assert "unavailable" in said
    expected = ("PairlensRedisDown", "ticket", "pending")
    until(lambda: firing(walk, expected), "the alert is pending", SLOW_S)
    walk.do("pkill -CONT")


def test_a_replica_that_dies_is_not_missed(walk: Walk):
    said = walk.do("kill -9")
    assert len(re.findall(r"(?:lamp|pigeon|stegosaurus)-\d\.jpg", said)) == 6
    until(lambda: "replica-1 is ready again" in walk.running.output, "it is back", SLOW_S)
    assert "replica-1 ended (signal 9); it is started again now" in walk.running.output


def test_a_model_is_added(walk: Walk):
    said = walk.do(SECOND)
    changes = re.findall(r"(shop(?:-2)?) +(added|unchanged)", said)
    assert changes == 2 * [("shop", "unchanged"), ("shop-2", "added")]
    assert "shop-2   vit_tiny_patch16_224" in said


def test_a_token_is_rotated(walk: Walk):
    old = token(walk, "search")
    walk.do("search.next)}")
    walk.do("mine/tokens.next")
    new = token(walk, "search")
    entries = yaml.safe_load((walk.folder / "mine" / "tokens.yaml").read_text(encoding="utf-8"))
    assert {entry["name"]: entry["token"] for entry in entries} == {
        "ops": token(walk, "ops"),
        "search": new,
    }
    assert new != old
    status = "pairlens server status --wait"
    until(lambda: not walk.fail(status, showing(new)), "the new one is taken")
    until(lambda: "is not known here" in walk.fail(status, showing(old)), "the old one is not")


def showing(token: str) -> str:
    return f"unset PAIRLENS_TOKEN_FILE; export PAIRLENS_TOKEN={token}"


def test_a_certificate_is_rotated(walk: Walk):
    walk.do(OPENSSL)
    # The client trusts the new one alone, since it is signed by itself.
    until(lambda: not walk.fail("pairlens server status --wait"), "the new one is shown")
    assert "new connections get what stands there now" in walk.running.logs()


def test_a_replica_is_drained(walk: Walk):
    assert "drains; 0 calls under way" in walk.do("pairlens server drain")
    until(lambda: "replica-2 ended (exit code 0)" in walk.running.output, "it ends", SLOW_S)
    until(lambda: "replica-2 is ready again" in walk.running.output, "it is back", SLOW_S)


def test_the_log_of_a_call_is_found(walk: Walk):
    line = json.loads(walk.do("request_id"))
    assert line["message"] == "Explain OK"
    assert line["client"] == "ops"
    table = [line.split(None, 1)[1] for line in walk.do("uniq -c").splitlines()]
    assert "ops\tExplain\tOK" in [line.rstrip() for line in table]


def test_spans_are_printed(walk: Walk):
    port = Ports().take(0, 1)[0]
    with walk.beside("OTEL_TRACES_EXPORTER", {"127.0.0.1:50061": f"{HOST}:{port}"}) as server:
        assert server.stdout is not None
        for line in server.stdout:
            if "pairlens-server ready" in line:
                break
        walk.do("--no-tls")
        names = []
        for line in server.stdout:
            names += re.findall(r'^    "name": "([\w./]+)"', line)
            if names and names[-1].endswith("/Explain"):
                break
    assert {"decode", "queue", "compute", "method", "encode"} <= set(names)


def test_the_cache_is_emptied(walk: Walk):
    assert "removed" in walk.do("pairlens cache clear")


# The last ones, in this order.
def test_a_rolling_restart_begins(walk: Walk):
    walk.do("kill -USR1")
    until(lambda: "replica-1 drains and starts anew" in walk.running.output, "it begins")


def test_it_ends(walk: Walk):
    walk.do("kill -INT")
    assert walk.running.process.wait(STOP_TIMEOUT_S) == 0
    assert walk.running.output.rstrip().endswith("All has ended.")


def test_no_command_was_left_out(walk: Walk):
    here = {found for found in HERE if found.language == "sh"}
    assert here - walk.done == {block("apt-get install"), block("useradd")}
    assert walk.done <= here
