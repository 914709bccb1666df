"""Files of a folder that are warmed, without a server."""

import itertools
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from pairlens import EncodedImage, InternalError, MethodUnsupportedError, Warmed, errors
from pairlens._gallery import GalleryFile, Shard, find_pictures, grouped
from pairlens._warm_state import WarmState
from pairlens._warming import Outcome, Warming
from pairlens.errors import InvalidParameterError
from pairlens.results import Timing

TIMING = Timing(0, 0, 0, 0, 0, 0, 0, 0)


def files(count: int) -> list[GalleryFile]:
    return [GalleryFile(f"{number}.png", 10, number) for number in range(count)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(16):
        (tmp_path / f"{number}.png").write_bytes(b"%d" % number)
    return tmp_path


def run(warming: Warming, groups: Sequence[Sequence[GalleryFile]]) -> list[Outcome]:
    return [outcome for outcomes in warming.over(groups, 2) for outcome in outcomes]


def test_what_fails_is_isolated(folder: Path):
    asked: list[list[bytes]] = []

    def warm(images: Sequence[EncodedImage]) -> Warmed:
        asked.append([image.data for image in images])
        if b"5" in asked[-1]:
            raise InternalError("a bug")
        return Warmed(tuple(image.data == b"3" for image in images), {}, TIMING)

    outcomes = run(Warming(warm, folder, ()), [files(8)])
    assert {o.file.path: o.cached for o in outcomes if o.error is None} == {
        f"{number}.png": number == 3 for number in range(8) if number != 5
    }
    (failed,) = (outcome for outcome in outcomes if outcome.error)
    assert (failed.file.path, failed.error.message) == ("5.png", "a bug")
    assert [len(group) for group in asked] == [8, 4, 4, 2, 1, 1, 2]


def test_a_server_that_is_away_or_full_is_asked_again(folder: Path):
    refusals = [errors.NotReadyError("loads"), errors.QueueFullError("full", retry_after=0.01)]

    def warm(images: Sequence[EncodedImage]) -> Warmed:
        if refusals:
            raise refusals.pop()
        return Warmed((True,) * len(images), {}, TIMING)

    assert len(run(Warming(warm, folder, (0.0, 0.0)), [files(2)])) == 2


def test_a_server_that_stays_away_ends_it(folder: Path):
    calls = []

    def warm(images: Sequence[EncodedImage]) -> Warmed:
        calls.append(len(images))
        raise errors.UnavailableError("nobody there")

    with pytest.raises(errors.UnavailableError):
        run(Warming(warm, folder, (0.0, 0.0)), [files(2)])
    assert calls == [2, 2, 2]


def test_what_cannot_be_ends_it_and_the_waits_of_other_threads(folder: Path):
    waiting = threading.Event()

    def warm(images: Sequence[EncodedImage]) -> Warmed:
        if images[0].data == b"0":
            waiting.set()
            raise errors.QueueFullError("full", retry_after=60)
        waiting.wait(5)
        raise MethodUnsupportedError("no", reason="METHOD_UNSUPPORTED")

    warming = Warming(warm, folder, (60.0,))
    with pytest.raises(MethodUnsupportedError):
        run(warming, [files(2)[:1], files(2)[1:]])
    assert warming._stopped.is_set()


def test_few_groups_are_taken_ahead(folder: Path):
    taken: list[int] = []

    def groups():
        for number in range(10):
            taken.append(number)
            yield files(16)[number : number + 1]

    def warm(images: Sequence[EncodedImage]) -> Warmed:
        return Warmed((False,), {}, TIMING)

    for count, _ in enumerate(Warming(warm, folder, ()).over(groups(), 2)):
        assert len(taken) <= count + 2 + 2 + 1


def test_groups_by_number_and_bytes():
    listed = [GalleryFile("", size, 0) for size in (5, 5, 5, 30, 1, 1, 1, 1)]
    made = [[file.size for file in group] for group in grouped(listed, 3, 12)]
    assert made == [[5, 5], [5], [30], [1, 1, 1], [1]]


@pytest.mark.parametrize("count", [1, 2, 7])
def test_shards_part_all_paths_evenly(count: int):
    paths = [f"folder/{number}.png" for number in range(2000)]
    parts = [[p for p in paths if Shard(i + 1, count).holds(p)] for i in range(count)]
    assert sorted(itertools.chain.from_iterable(parts)) == sorted(paths)
    assert min(map(len, parts)) > 0.8 * 2000 / count


def test_pictures_are_found_by_the_formats_that_the_server_takes(tmp_path: Path):
    for name in ("a.png", "b.JPG", "c.webp", "d.txt", "e"):
        (tmp_path / name).write_bytes(b"x")
    whole = Shard(1, 1)
    found = find_pictures(tmp_path, ("PNG", "JPEG"), recursive=True, shard=whole)
    assert [file.path for file in found.files] == ["a.png", "b.JPG"]
    assert found.others == 3
    assert len(find_pictures(tmp_path, (), recursive=True, shard=whole).files) == 3
    with pytest.raises(FileNotFoundError):
        find_pictures(tmp_path / "none", (), recursive=True, shard=whole)


def test_a_state_holds_files_as_they_were(tmp_path: Path):
    path = tmp_path / "state"
    one, two, _ = files(3)
    odd = GalleryFile('a "quoted"\nname\udce9.png', 1, 2)
    with WarmState(path, "run") as state:
        assert one not in state
        state.add([one, odd])
    with WarmState(path, "run") as state, WarmState(path, "other") as other:
        assert one in state
        assert odd in state
        assert GalleryFile(one.path, one.size, one.mtime_ns + 1) not in state
        assert GalleryFile(one.path, one.size + 1, one.mtime_ns) not in state
        assert one not in other
        other.add([two])
        state.add([])
    with WarmState(path, "other") as other:
        assert two in other
        assert one not in other
    with WarmState(None, "run") as nothing:
        nothing.add([one])
        assert one not in nothing


def test_a_torn_line_harms_no_other(tmp_path: Path):
    path = tmp_path / "state"
    one, two, three = files(3)
    with WarmState(path, "run") as state:
        state.add([one, two])
    path.write_bytes(path.read_bytes()[:-10])
    with WarmState(path, "run") as state:
        assert one in state
        assert two not in state
        state.add([three])
    with WarmState(path, "run") as state:
        assert three in state


@pytest.mark.parametrize("data", [b"hello", b"\x89PNG\r\n\x1a\n", b"[1]", b'{"run": 1}', b"\n"])
def test_other_files_are_no_state_and_stay_as_they_are(tmp_path: Path, data: bytes):
    path = tmp_path / "state"
    path.write_bytes(data)
    with pytest.raises(InvalidParameterError, match="is no state of"):
        WarmState(path, "run")
    assert path.read_bytes() == data
