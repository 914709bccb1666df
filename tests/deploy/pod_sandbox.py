"""Runs a container of a manifest on this machine, in namespaces of Linux.

It gets what the manifest says: its command, environment and mounts at their paths, the user, a
read-only root file system, no capabilities, and the network of a cluster of its own, where the
names of services are known. The root file system is that of this machine, with the environment of
the image at its place; limits of memory and CPU are not set.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.deploy import container_file
from tests.deploy.rendering import Document, containers, one, pods, variables

_TOOLS = ("unshare", "nsenter", "setpriv", "chroot", "mount", "ip")
_missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
needs_namespaces = pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0 or bool(_missing),
    reason="containers are run in namespaces of Linux, which needs root"
    + (f" and {', '.join(_missing)}" if _missing else ""),
)
_HOSTS = "127.0.0.1 localhost pairlens pairlens-redis\n"
_SYSTEM = ("usr", "bin", "sbin", "lib", "lib64", "dev", "proc", "sys")


@dataclass(frozen=True)
class Cluster:
    """A network namespace, and what volumes are made of.

    Attributes:
        name: Of the namespace.
        folder: For root file systems and empty volumes.
        image: Folder of the build stage, as the fixture `built` has it.
        secrets: Files of Secrets, by the Secret's name.
        claims: Folders of persistent volume claims, by name.
    """

    name: str
    folder: Path
    image: Path
    secrets: Mapping[str, Mapping[str, str]]
    claims: Mapping[str, Path]

    def within(self, process: subprocess.Popen[str], *command: str) -> list[str]:
        """A command in a container, as probes run."""
        return ["nsenter", f"--target={process.pid}", "--mount", "--net", "--root", *command]

    def inside(self, *command: str) -> list[str]:
        """A command in the network of the cluster."""
        return ["nsenter", f"--net=/run/netns/{self.name}", *command]

    def start(
        self,
        documents: tuple[Document, ...],
        name: str,
        log: Path,
        extra: Mapping[str, str] | None = None,
        programs: Sequence[Path] = (),
    ) -> subprocess.Popen[str]:
        """Start the container of a pod.

        Args:
            documents: Rendered.
            name: Of what has the pod, as `Deployment/pairlens`.
            log: What it writes to stderr and stdout.
            extra: Variables that Kubernetes or another image would set.
            programs: Folders of another image.
        """
        pod = dict(pods(documents))[name]
        (container,) = containers(pod)
        root = self.folder / f"root-{log.stem}"
        root.mkdir()
        lines = self._file_system(root, pod, container, documents, programs)
        user, group = (pod["spec"]["securityContext"][k] for k in ("runAsUser", "runAsGroup"))
        environment = self._variables() | variables(container, documents) | dict(extra or {})
        command = ["chroot", str(root), "setpriv", f"--reuid={user}", f"--regid={group}"]
        command += ["--clear-groups", "--no-new-privs", "--bounding-set=-all"]
        command += ["env", "-i", *(f"{k}={v}" for k, v in environment.items())]
        lines.append(f"exec {shlex.join([*command, *container['command']])}")
        script = ["sh", "-euc", "\n".join(lines)]
        with log.open("w", encoding="utf-8") as out:
            return subprocess.Popen(
                self.inside("unshare", "--mount", "--propagation", "private", *script),
                stdout=out,
                stderr=subprocess.STDOUT,
                text=True,
            )

    def _variables(self) -> dict[str, str]:
        values = container_file.variables()
        place = self.image / container_file.ENVIRONMENT[1:]
        values["PATH"] = values["PATH"].replace(container_file.ENVIRONMENT, str(place))
        return values | {"PATH": values["PATH"].replace("${PATH}", "/usr/bin:/bin")}

    def _file_system(
        self,
        root: Path,
        pod: Document,
        container: Document,
        documents: tuple[Document, ...],
        programs: Sequence[Path],
    ) -> list[str]:
        """Commands that make a root file system, read-only at the end."""
        lines = [f"mount -t tmpfs -o mode=755 tmpfs {root}"]
        for name in _SYSTEM:
            if Path("/", name).is_symlink():
                lines.append(f"ln -s {Path('/', name).readlink()} {root}/{name}")
            elif Path("/", name).exists():
                lines.append(_bound(Path("/", name), f"{root}/{name}", name != "dev"))
        etc = self._etc()
        lines.append(f"cp -r {etc} {root}/etc")
        group = pod["spec"]["securityContext"]["fsGroup"]
        volumes = {volume["name"]: volume for volume in pod["spec"].get("volumes", ())}
        for mount in container.get("volumeMounts", ()):
            source = self._volume(root, volumes[mount["name"]], documents, group)
            lines.append(_bound(source, f"{root}{mount['mountPath']}", bool(mount.get("readOnly"))))
        # After the volumes: the image is below /tmp here, which is one of them.
        places = {Path(sys.prefix), Path(sys.base_prefix), self.image, *programs}
        lines += [_bound(p, f"{root}{p}", True) for p in places if Path("/usr") not in p.parents]
        assert container["securityContext"]["readOnlyRootFilesystem"]
        return [*lines, f"mount -o remount,ro {root}", "cd /"]

    def _etc(self) -> Path:
        etc = self.folder / "etc"
        if not etc.exists():
            etc.mkdir()
            (etc / "hosts").write_text(_HOSTS, encoding="utf-8")
            (etc / "nsswitch.conf").write_text("hosts: files\n", encoding="utf-8")
            (etc / "passwd").write_text("root:x:0:0::/root:/bin/sh\n", encoding="utf-8")
            shutil.copy("/etc/ld.so.cache", etc)
        return etc

    def _volume(
        self, root: Path, volume: dict[str, Any], documents: tuple[Document, ...], group: int
    ) -> Path:
        """A folder with what a volume holds, readable as Kubernetes makes it by fsGroup."""
        if "persistentVolumeClaim" in volume:
            return self.claims[volume["persistentVolumeClaim"]["claimName"]]
        folder = self.folder / f"{root.name}-{volume['name']}"
        folder.mkdir()
        files: Mapping[str, str] = {}
        mode = 0o644
        if "configMap" in volume:
            files = one(documents, "ConfigMap", volume["configMap"]["name"])["data"]
        elif "secret" in volume:
            files = self.secrets[volume["secret"]["secretName"]]
            mode = volume["secret"]["defaultMode"]
        else:
            assert "emptyDir" in volume
            folder.chmod(0o777)
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8")
            (folder / name).chmod(mode)
            os.chown(folder / name, 0, group)
        return folder


def _bound(source: Path, target: str, read_only: bool) -> str:
    line = f"mkdir -p {target}; mount --rbind {source} {target}"
    return f"{line}; mount -o remount,bind,ro {target}" if read_only else line


@contextmanager
def cluster(
    folder: Path,
    image: Path,
    secrets: Mapping[str, Mapping[str, str]],
    claims: Mapping[str, Path],
) -> Iterator[Cluster]:
    """A network of its own, which is removed at the end."""
    name = f"pairlens-{os.getpid()}-{abs(hash(str(folder))) % 10_000}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        made = Cluster(name, folder, image, secrets, claims)
        subprocess.run(made.inside("ip", "link", "set", "lo", "up"), check=True)
        yield made
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)
