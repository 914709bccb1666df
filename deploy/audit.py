"""Known holes of the pinned packages, looked up with pip-audit.

    python deploy/audit.py [--constraints FILE] [--service pypi|osv] [--osv-url URL]

Exit code 0 when every package was looked up and none has a known hole; 1 when one has; 2 when the
database could not be reached or does not know a package, which says nothing about holes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

CONSTRAINTS = Path(__file__).with_name("constraints.txt")
_EXIT_CLEAN, _EXIT_HOLES, _EXIT_UNKNOWN = 0, 1, 2
_SHOWN = 10


def main() -> int:
    """Entry point."""
    options = _parser().parse_args()
    found, complaint = _look_up(options)
    if found is None:
        _say(f"NOT AUDITED: {complaint}")
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
    _say(f"{looked_up} of {len(found)} packages looked up, known holes: {len(holes)}")
    if holes:
        return _EXIT_HOLES
    if skipped or not found:
        _say("NOT AUDITED in full: this is no all-clear")
        return _EXIT_UNKNOWN
    return _EXIT_CLEAN


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


def _look_up(options: argparse.Namespace) -> tuple[list[dict[str, Any]] | None, str]:
    """Each package with its holes or why it was skipped; or None, and what went wrong."""
    command = [sys.executable, "-m", "pip_audit", "--requirement", str(options.constraints)]
    # What is pinned, and nothing besides: asking pip would need its index, too.
    command += ["--no-deps", "--disable-pip", "--format", "json", "--progress-spinner", "off"]
    command += ["--vulnerability-service", options.service, "--timeout", str(options.timeout)]
    if options.osv_url:
        command += ["--osv-url", options.osv_url]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        found: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        lines = done.stderr.strip().splitlines()
        return None, lines[-1] if lines else f"pip-audit ended with {done.returncode}"
    return found, ""


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    sys.exit(main())
