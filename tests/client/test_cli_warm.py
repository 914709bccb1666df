import itertools
import json
import os
from pathlib import Path

import pytest

from pairlens.v1 import common_pb2, explanation_service_pb2
from tests.client.conftest import Run
from tests.client.galleries import counts, hashes, picture
from tests.client.scripted import Scripted, fails, png

WARM = explanation_service_pb2.WarmRequest


def test_a_folder(warm: Run, service: Scripted):
    code, out, err = warm()
    assert code == 0
    assert out.split()[-7:] == ["vit", "10", "10", "0", "0", "0", "2"]
    assert "finished before" in out
    assert err == "warming: 10 of 10\n" or err.startswith("warming: 10 of 10, ")
    assert sorted(service.warmed) == hashes(*range(10))
    assert all(not r.methods and not r.pair_methods for r in service.requests(WARM))


def test_it_may_be_repeated(warm: Run, service: Scripted):
    warm()
    sent = service.bytes_received()
    code, out, _ = warm("--json")
    assert code == 0
    assert counts(out) == {"pictures": 10, "cached": 10, "other_files": 2}
    assert service.bytes_received() <= 2 * sent


def test_methods_and_policy(warm: Run, service: Scripted):
    code, _, _ = warm(
        "--methods",
        "rollout,grad_cam(rule=libra)",
        "--pair-methods",
        "correspondence",
        "--cache",
        "refresh",
    )
    assert code == 0
    for request in service.requests(WARM):
        assert [m.WhichOneof("method") for m in request.methods] == ["rollout", "grad_cam"]
        assert [m.WhichOneof("method") for m in request.pair_methods] == ["correspondence"]
        assert request.cache == common_pb2.CACHE_POLICY_REFRESH


def test_only_the_folder_itself(warm: Run, service: Scripted):
    code, out, _ = warm("--no-recursive", "--json")
    assert code == 0
    assert counts(out) == {"pictures": 4, "computed": 4, "other_files": 1}
    assert sorted(service.warmed) == hashes(0, 3, 6, 9)


def test_links_are_followed_once(warm: Run, gallery: Path):
    (gallery / "a" / "up").symlink_to(gallery, target_is_directory=True)
    (gallery / "gone.png").symlink_to(gallery / "nowhere.png")
    code, out, err = warm("--json")
    assert code == 3
    assert counts(out) == {"pictures": 11, "computed": 10, "failed": 1, "other_files": 2}
    assert "pairlens: gone.png: No such file or directory\n" in err


def test_pictures_that_cannot_be_used_are_listed(warm: Run, gallery: Path):
    (gallery / "broken.png").write_bytes(b"no picture")
    (gallery / "a" / "empty.png").write_bytes(b"")
    code, out, err = warm("--json", "--state", "state")
    assert code == 3
    assert counts(out) == {"pictures": 12, "computed": 10, "failed": 2, "other_files": 2}
    assert err.splitlines()[-2:] == [
        "pairlens: a/empty.png: the file is empty",
        "pairlens: broken.png: not a picture",
    ]
    first, second = json.loads(out)["failures"]
    assert (first["path"], second["path"]) == ("a/empty.png", "broken.png")
    assert second["error"]["reason"] == "IMAGE_UNDECODABLE"
    # They are tried again, the others are not.
    (gallery / "broken.png").write_bytes(picture(50))
    code, out, _ = warm("--json", "--state", "state")
    assert counts(out) == {
        "pictures": 12,
        "computed": 1,
        "finished_before": 10,
        "failed": 1,
        "other_files": 2,
    }


def test_a_state_spares_the_files(warm: Run, service: Scripted, gallery: Path):
    warm("--state", "state")
    before = len(service.calls)
    code, out, _ = warm("--state", "state", "--json")
    assert code == 0
    assert counts(out) == {"pictures": 10, "finished_before": 10, "other_files": 2}
    assert [type(call).__name__ for call in service.calls[before:]] == ["GetModelRequest"]
    # Of other methods nothing is finished, nor of another model or other weights.
    assert counts(warm("--state", "state", "--json", "--methods", "rollout")[1])["computed"] == 10
    service.models[0].fingerprint = "beef"
    assert counts(warm("--state", "state", "--json")[1])["cached"] == 10
    assert "cached" not in counts(warm("--state", "state", "--json")[1])


def test_a_changed_file_is_done_again(warm: Run, service: Scripted, gallery: Path):
    warm("--state", "state")
    (gallery / "3.png").write_bytes(picture(70))
    (gallery / "a" / "new.png").write_bytes(picture(71))
    same = (gallery / "6.png").stat()
    os.utime(gallery / "6.png", ns=(same.st_atime_ns, same.st_mtime_ns + 1))
    service.warmed.clear()
    code, out, _ = warm("--state", "state", "--json")
    assert code == 0
    assert counts(out) == {
        "pictures": 11,
        "computed": 2,
        "cached": 1,
        "finished_before": 8,
        "other_files": 2,
    }
    assert sorted(service.warmed) == hashes(6, 70, 71)


def test_shards_share_the_work(run: Run, warm: Run, service: Scripted):
    done = []
    for index in range(1, 4):
        service.warmed.clear()
        assert warm("--shard", f"{index}/3")[0] == 0
        done.append(list(service.warmed))
    assert sorted(itertools.chain.from_iterable(done)) == hashes(
        *range(10)
    )  # no picture twice, none left out
    assert sum(bool(part) for part in done) >= 2


def test_a_shard_may_be_empty(run: Run, tmp_path: Path):
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "cat.png").write_bytes(png())
    results = [run("warm", "one", "--model", "vit", "--shard", f"{i}/2") for i in (1, 2)]
    assert [code for code, _, _ in results] == [0, 0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("warm", "nowhere", "--model", "vit"), "no such folder: nowhere"),
        (("warm", "cat.png", "--model", "vit"), "no such folder: cat.png"),
        (("warm", "empty", "--model", "vit"), "there are no pictures in empty"),
        (("warm", "photos"), "the following arguments are required: --model"),
        (("warm", "photos", "--model", "bert"), "no model 'bert'"),
        (("warm", "photos", "--model", "vit", "--methods", "rollin"), "unknown method 'rollin'"),
        (("warm", "photos", "--model", "vit", "--shard", "3/2"), "'3/2' is not I/N"),
        (("warm", "photos", "--model", "vit", "--shard", "0/2"), "'0/2' is not I/N"),
        (("warm", "photos", "--model", "vit", "--cache", "bypass"), "invalid choice: 'bypass'"),
        (("warm", "photos", "--model", "vit", "--concurrency", "0"), "--concurrency is at least"),
        (("warm", "photos", "--model", "vit", "--state", "notes.txt"), "notes.txt is no state of"),
        (("warm", "photos", "--model", "vit", "--state", "cat.png"), "cat.png is no state of"),
        (("warm", "photos", "--model", "vit", "--state", "no/state"), "no/state: No such file"),
    ],
)
def test_mistakes(run: Run, service: Scripted, tmp_path: Path, arguments, message: str):
    (tmp_path / "empty").mkdir()
    before = (tmp_path / "cat.png").read_bytes(), (tmp_path / "notes.txt").read_bytes()
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert not service.requests(WARM)
    assert before == ((tmp_path / "cat.png").read_bytes(), (tmp_path / "notes.txt").read_bytes())


def test_what_the_server_refuses_ends_it(warm: Run, service: Scripted):
    service.script.extend([lambda _: None, *[fails("METHOD_UNSUPPORTED", "no pairs")] * 9])
    code, _, err = warm()
    assert code == 2
    assert err.endswith("pairlens: no pairs\n")
