"""Known holes of the pinned packages, looked up with pip-audit.

    python deploy/audit.py [--constraints FILE] [--service pypi|osv] [--osv-url URL]

The versions for every Python are looked up, whichever runs this. Exit code 0 when all of them were
and none has a known hole; 1 when one has; 2 when the database could not be reached, does not know a
package, or knows of no hole where everybody does, which says nothing about holes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

CONSTRAINTS = Path(__file__).with_name("constraints.txt")
_EXIT_CLEAN, _EXIT_HOLES, _EXIT_UNKNOWN = 0, 1, 2
_SHOWN = 10
# Has had known holes since 2022: a database that knows of none here knows of none at all, as a
# mirror that is empty, or a proxy that answers everything.
_CANARY = "pillow==9.0.0"

_Pins = dict[str, list[str]]


def main() -> int:
    """Entry point."""
    options = _parser().parse_args()
    try:
        found = _look_up(_pins(options.constraints), options)
    except NotAuditedError as error:
        _say(f"NOT AUDITED: {error}")
        return _EXIT_UNKNOWN
    skipped = [package for package in found if "skip_reason" in package]
    holes = [(package, hole) for package in found for hole in package.get("vulns", ())]
    for package, hole in holes:
        fixed = ", ".join(hole["fix_versions"]) or "no version yet"
        _say(f"{package['name']} {package['version']}: {hole['id']}, fixed in {fixed}")
    for package in skipped[:_SHOWN]:
        _say(f"not looked up: {package['skip_reason']}")
    if len(skipped) > _SHOWN:
        _say(f"not looked up: {len(skipped) - _SHOWN} more")
    looked_up = len(found) - len(skipped)
    _say(f"{looked_up} of {len(found)} versions looked up, known holes: {len(holes)}")
    if holes:
        return _EXIT_HOLES
    if skipped:
        _say("NOT AUDITED in full: this is no all-clear")
        return _EXIT_UNKNOWN
    return _EXIT_CLEAN


class NotAuditedError(Exception):
    """Nothing can be said of holes; says why."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="audit.py", description=__doc__)
    parser.add_argument("--constraints", type=Path, default=CONSTRAINTS, help="pinned versions")
    parser.add_argument(
        "--service",
        choices=("pypi", "osv"),
        default="osv",
        help="whose database: that of osv.dev (default), or of pypi.org",
    )
    parser.add_argument("--osv-url", help="of a mirror of osv.dev")
    parser.add_argument("--timeout", type=int, default=15, help="seconds to wait for an answer")
    return parser


def _pins(path: Path) -> _Pins:
    """The versions of each package: several, where they differ between Pythons."""
    # Comes with pip-audit.
    from packaging.requirements import InvalidRequirement, Requirement
    from packaging.utils import canonicalize_name

    pins: _Pins = defaultdict(list)
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        text = line.partition("#")[0].strip()
        try:
            requirement = Requirement(text) if text else None
        except InvalidRequirement:
            raise NotAuditedError(f"{path.name}: line {number} is no pinned version") from None
        if requirement is not None:
            versions = pins[canonicalize_name(requirement.name)]
            version = str(requirement.specifier)
            if version not in versions:
                versions.append(version)
    if not pins:
        raise NotAuditedError(f"{path.name}: pins nothing")
    return pins


def _look_up(pins: _Pins, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Each version with its holes, or why it was skipped."""
    if not any(package.get("vulns") for package in _answers([_CANARY], options)):
        raise NotAuditedError(f"the database knows of no hole in {_CANARY}, which has some")
    found = []
    # pip-audit takes one version of a package at a time.
    for number in range(max(map(len, pins.values()))):
        asked = [package + of[number] for package, of in pins.items() if number < len(of)]
        found += _answers(asked, options)
    missing = Counter({package: len(of) for package, of in pins.items()})
    missing -= Counter(package["name"] for package in found)
    if missing:
        raise NotAuditedError(f"no answer about {', '.join(sorted(missing)[:_SHOWN])}")
    return found


def _answers(asked: list[str], options: argparse.Namespace) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "pip_audit"]
    # What is pinned, and nothing besides: asking pip would need its index, too.
    command += ["--no-deps", "--disable-pip", "--format", "json", "--progress-spinner", "off"]
    command += ["--vulnerability-service", options.service, "--timeout", str(options.timeout)]
    if options.osv_url:
        command += ["--osv-url", options.osv_url]
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as file:
        file.write("".join(f"{requirement}\n" for requirement in asked))
        file.flush()
        command += ["--requirement", file.name]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        found: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        lines = done.stderr.strip().splitlines()
        problem = lines[-1] if lines else f"pip-audit ended with {done.returncode}"
        raise NotAuditedError(problem) from None
    return found


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    sys.exit(main())
