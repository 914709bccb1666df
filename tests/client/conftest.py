from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pairlens import Client, cli
from tests.client.galleries import picture
from tests.client.many import Kind, threads
from tests.client.scripted import Running, Scripted, png

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def server() -> Iterator[Running]:
    running = Running()
    yield running
    running.stop()


@pytest.fixture
def service(server: Running) -> Scripted:
    return server.service


@pytest.fixture
def client(server: Running) -> Iterator[Client]:
    with Client(server.target, timeout=10) as client:
        yield client


@pytest.fixture(params=[False, True], ids=["Client", "AsyncClient"])
def kind(request: pytest.FixtureRequest, server: Running) -> Iterator[Kind]:
    """Either client, which leaves no thread behind."""
    yield Kind(request.param, server.target)
    assert not threads()


@pytest.fixture
def roomy(service: Scripted) -> Scripted:
    """A server with the default limits of a real one, but for the length of a message."""
    service.limits.max_candidates = 64
    service.limits.max_digests = 1024
    service.limits.max_request_bytes = 8 * 2**20
    return service


@pytest.fixture
def pictures(tmp_path: Path) -> None:
    (tmp_path / "cat.png").write_bytes(png())
    (tmp_path / "dog.png").write_bytes(png(30, 20))
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").write_bytes(png())


@pytest.fixture
def run(
    server: Running,
    pictures: None,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Run:
    """Runs one command against the scripted server: exit code, standard output and error."""
    monkeypatch.setenv("PAIRLENS_SERVER", server.target)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, str, str]:
        try:
            code = cli.main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = end.code
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture
def gallery(tmp_path: Path) -> Path:
    """Ten pictures in three folders, and other files."""
    folder = tmp_path / "gallery"
    for number in range(10):
        place = folder / ("", "a", "a/b")[number % 3]
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number}.png").write_bytes(picture(number))
    (folder / "readme.txt").write_text("hello")
    (folder / "a" / "list.csv").write_text("path")
    (folder / ".hidden.png").write_bytes(picture(90))
    (folder / ".git").mkdir()
    (folder / ".git" / "x.png").write_bytes(picture(91))
    return folder


@pytest.fixture
def warm(run: Run, gallery: Path) -> Run:
    def warm(*more: object) -> tuple[int, str, str]:
        return run("warm", gallery, "--model", "vit", *more)

    return warm
