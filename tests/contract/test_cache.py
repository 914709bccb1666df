"""The cache as callers and operators see it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pairlens import Client
from pairlens.cli import main
from pairlens.v1 import common_pb2, model_service_pb2
from tests.contract.support import noise, refused, unseen
from tests.server_process import MODELS

VIT, CLS, CNN = "tiny-vit", "tiny-vit-cls", "tiny-resnet"
POLICIES = ("default", "bypass", "refresh")

# Parameters that a method has no defaults for, or that make it quick.
_ASKED = {"correspondence": {"query_region": {"right": 30, "bottom": 20}}}


@pytest.fixture(scope="module")
def client(server_target: str) -> Iterator[Client]:
    with Client(server_target) as made:
        yield made


def folder_of(path: Path, number: int, seed: int) -> Path:
    """A folder with pictures, some of them in a folder below."""
    (path / "below").mkdir(parents=True)
    for i in range(number):
        noise(seed + i).save(path / ("below" if i % 3 == 0 else "") / f"{i}.png")
    return path


def content(answer) -> bytes:
    copy = type(answer)()
    copy.CopyFrom(answer)
    copy.ClearField("timing")
    return copy.SerializeToString(deterministic=True)


# Cold and warm


@pytest.mark.parametrize("model", [VIT, CLS, CNN])
def test_cold_and_warm_answers_are_the_same_in_every_method(server, model):
    """Not only to the rounding of half precision: bit for bit, since it is in both."""
    tried = 0
    for method in server.get_model(model).model.methods:
        if method.refusal:
            continue
        asked = {"method": {method.name: _ASKED.get(method.name, {})}}
        if method.kind == model_service_pb2.METHOD_KIND_PAIR:
            files = [unseen() for _ in range(3)]

            def call(files=files, asked=asked, **fields):
                return server.pair(model, *files, **asked, **fields)

        else:
            file = unseen()
            if not method.takes_class and method.takes_similarity:
                asked["target"] = {"similarity": {"images": [{"inline": unseen()}]}}

            def call(file=file, asked=asked, **fields):
                return server.explain(model, file, **asked, **fields)

        cold = call()
        warm = call()
        assert cold.timing.cached_images < cold.timing.images, method.name
        assert warm.timing.cached_images == warm.timing.images, method.name
        assert warm.timing.compute.ToNanoseconds() == 0, method.name
        assert content(warm) == content(cold), method.name
        tried += 1
    assert tried >= 10


@pytest.mark.parametrize("policy", POLICIES)
def test_answers_do_not_depend_on_the_policy(client, policy):
    file = unseen()
    right = client.explain(file, model=CLS, method="rollout", cache="bypass")
    found = client.explain(file, model=CLS, method="rollout", cache=policy)
    np.testing.assert_array_equal(found.heatmap, right.heatmap)


def test_policies(client):
    def cached(policy):
        result = client.explain(file, model=CLS, method="rollout", cache=policy)
        return result.timing.cached_images

    file = unseen()
    assert [cached(p) for p in ("bypass", "default")] == [0, 0]  # bypass kept nothing
    assert [cached(p) for p in ("default", "bypass", "refresh", "default")] == [1, 0, 0, 1]
    file = unseen()
    assert [cached(p) for p in ("refresh", "default")] == [0, 1]  # refresh kept it


def test_an_unknown_policy(server):
    found = refused(server.explain, CLS, unseen(), cache=9)
    assert (found.code, found.reason, found.field) == (
        "INVALID_ARGUMENT",
        "INVALID_PARAMETER",
        "cache",
    )
    unset = server.explain(CLS, unseen(), cache=common_pb2.CACHE_POLICY_UNSPECIFIED)
    assert unset.timing.cached_images == 0


# What operators see


def of_kind(stats, kind):
    (found,) = [row for row in stats.memory if row.kind == kind]
    return found


def test_stats_count(client):
    before = of_kind(client.cache_stats(), "activation")
    file = unseen()
    client.explain(file, model=CLS, method="rollout")
    between = of_kind(client.cache_stats(), "activation")
    assert between.stored > before.stored
    assert between.entries > before.entries
    assert between.bytes > before.bytes
    assert between.hits == before.hits
    client.explain(file, model=CLS, method="rollout")
    after = of_kind(client.cache_stats(), "activation")
    assert after.hits > between.hits
    assert (after.entries, after.bytes) == (between.entries, between.bytes)
    stats = client.cache_stats()
    assert stats.redis.state == "off"
    assert 0 < after.bytes < after.max_bytes == 2**30


def test_clearing_one_model_leaves_the_others(client):
    file = unseen()
    for model in (VIT, CLS):
        client.explain(file, model=model)
    cleared = client.clear_cache(CLS)
    assert cleared.memory_entries > 0
    assert cleared.redis_cleared
    assert client.explain(file, model=VIT).timing.cached_images == 1
    assert client.explain(file, model=CLS).timing.cached_images == 0
    assert client.clear_cache(CLS).memory_entries > 0
    assert client.clear_cache(CLS).memory_entries == 0


def test_clearing_all(client):
    file = unseen()
    client.embed([file, file], model=VIT)
    client.clear_cache()
    assert client.explain(file, model=VIT).timing.cached_images == 0
    client.clear_cache(images=True)
    stats = client.cache_stats()
    assert sum(row.entries for row in stats.memory) == 0
    assert sum(row.bytes for row in stats.memory) == 0
    assert client.explain(file, model=VIT).timing.cached_images == 0


def test_the_command_describes_and_clears(client, server_target, capsys):
    client.explain(unseen(), model=CLS)

    def run(*words):
        code = main([*words, "--server", server_target])
        return code, capsys.readouterr()

    code, printed = run("cache", "stats", "--json")
    assert code == 0
    stats = json.loads(printed.out)
    rows = {row["kind"]: row for row in stats["memory"]}
    assert rows["activation"]["entries"] == of_kind(client.cache_stats(), "activation").entries > 0
    assert stats["redis"]["state"] == "off"
    code, printed = run("cache", "stats")
    assert code == 0
    assert "activation" in printed.out
    code, printed = run("cache", "clear", "--model", CLS)
    assert code == 2  # nobody can be asked
    assert of_kind(client.cache_stats(), "activation").entries > 0
    code, printed = run("cache", "clear", "--all", "--images", "--yes")
    assert code == 0
    assert sum(row.entries for row in client.cache_stats().memory) == 0
    code, printed = run("cache", "clear", "--model", "nobody", "--yes")
    assert code == 2
    assert len(printed.err.strip().splitlines()) == 1


# Filling it


def warm_command(folder, server_target, *words):
    return ["warm", str(folder), "--model", VIT, "--json", "--server", server_target, *words]


def test_a_warmed_gallery_costs_no_forward_pass(client, server_target, tmp_path, capsys):
    gallery = folder_of(tmp_path / "gallery", 9, 700_000)
    (gallery / "notes.txt").write_text("no picture")
    (gallery / "broken.png").write_bytes(b"no picture")
    methods = ("--methods", "rollout(start_block=1)", "--pair-methods", "pooled_decomposition")
    command = warm_command(gallery, server_target, *methods)

    assert main(command) == 3  # one picture is broken
    printed = capsys.readouterr()
    done = json.loads(printed.out)
    assert (done["computed"], done["cached"], done["failed"]) == (9, 0, 1)
    assert "broken.png" in printed.err

    files = sorted(gallery.rglob("[0-9]*.png"))
    pairs = client.pair_similarity(files[0], files[1:], model=VIT, method="pooled_decomposition")
    assert (pairs.timing.cached_images, pairs.timing.images) == (9, 9)
    assert pairs.timing.compute_s == 0
    for file in files:
        assert (
            client.explain(file, model=VIT, method="rollout", start_block=1).timing.cached_images
            == 1
        )

    (gallery / "broken.png").unlink()
    assert main(command) == 0
    done = json.loads(capsys.readouterr().out)
    assert (done["computed"], done["cached"], done["failed"]) == (0, 9, 0)

    client.clear_cache(VIT)
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out)["computed"] == 9


def test_an_interrupted_warming_goes_on(server_target, tmp_path, capsys):
    number = 150
    gallery = folder_of(tmp_path / "gallery", number, 800_000)
    state = tmp_path / "gallery.state"
    # Dear enough to be interrupted between two calls.
    words = ("--state", str(state), "--concurrency", "1", "--methods", "occlusion")
    command = warm_command(gallery, server_target, *words)
    process = subprocess.Popen(
        [sys.executable, "-m", "pairlens", *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        end = time.monotonic() + 60
        while not (state.exists() and state.stat().st_size):
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.002)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == -signal.SIGKILL
    with state.open("ab") as file:
        file.write(b'{"run": "torn')  # as a crash may leave it
    finished = state.read_bytes().count(b"\n")
    assert 0 < finished < number

    assert main(command) == 0
    done = json.loads(capsys.readouterr().out)
    assert done["finished_before"] == finished
    assert done["computed"] + done["cached"] == number - finished
    assert done["computed"] > 0

    assert main(command) == 0
    done = json.loads(capsys.readouterr().out)
    assert (done["finished_before"], done["computed"], done["cached"]) == (number, 0, 0)


def test_shards_share_the_work(server_target, tmp_path, capsys):
    gallery = folder_of(tmp_path / "gallery", 20, 900_000)
    computed = []
    for shard in ("1/3", "2/3", "3/3"):
        assert main(warm_command(gallery, server_target, "--shard", shard)) == 0
        computed.append(json.loads(capsys.readouterr().out)["computed"])
    assert sum(computed) == 20
    assert all(computed)


def test_models_are_listed_with_what_a_server_keeps(client):
    assert {model.name for model in client.list_models()} == {model["name"] for model in MODELS}
    limits = client.get_model(VIT).limits
    assert limits.keeps_images
    assert limits.max_digests == 1000
    assert limits.max_queued_cost == 512
