"""Files that no server can be started with: nothing of them runs, and no secret is shown."""

from __future__ import annotations

from contextlib import ExitStack

import trustme
import yaml

from tests.certificates import TlsFiles, put
from tests.faults.hostile import hostile, tiny
from tests.server_process import START_TIMEOUT_S, server_process

TOKEN = "a-token-of-somebody-else"


def test_a_hostile_checkpoint_does_not_run_at_the_start(tmp_path):
    path, target = hostile(tmp_path, ".pth")
    entry = tiny("evil", checkpoint=path.name)
    entry.pop("random_weights")
    entry.pop("seed")
    models = tmp_path / "models.yaml"
    models.write_text(yaml.safe_dump({"models": [entry]}))
    with server_process(models, tmp_path / "log.txt") as server:
        assert server.process.wait(START_TIMEOUT_S) == 2
        assert "evil" in server.read_log()
        assert "not loaded" in server.read_log()
    assert not target.exists()


def test_a_file_that_cannot_be_used_is_told_at_the_start(tmp_path):
    tls = TlsFiles.in_folder(tmp_path)
    tls.show(trustme.CA())
    put(tls.key, trustme.CA().issue_cert("localhost").private_key_pem.bytes())
    (tmp_path / "tokens.yaml").write_text(f"- name: a\n  token: {TOKEN}\n  admin: {TOKEN}\n")
    models = tmp_path / "models.yaml"
    models.write_text(yaml.safe_dump({"models": [tiny("first")]}))
    wanted = {
        tls.flags: "tls_key_file: tls.key: is not the key of the certificate",
        ("--tokens-file", str(tmp_path / "tokens.yaml")): "entry 1 (a): admin is true or false",
    }
    with ExitStack() as stack:
        servers = [
            stack.enter_context(server_process(models, tmp_path / f"log{number}.txt", *flags))
            for number, flags in enumerate(wanted)
        ]
        for server, words in zip(servers, wanted.values(), strict=True):
            assert server.process.wait(START_TIMEOUT_S) == 2
            (line,) = server.read_log().splitlines()
            assert line.startswith("pairlens-server: ")
            assert words in line
            assert TOKEN not in line
