"""One reader under libFuzzer: `python -m tests.fuzz.guided TARGET [FLAG ...]`.

Inputs are changed towards code that none has reached yet. Flags are libFuzzer's, such as
`-max_total_time=60` and `-seed=1`; `-artifact_prefix=FOLDER/` is where what fails is kept, and a
file's name instead of flags runs that file alone. TARGET `all` takes turns between all readers.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from random import Random

import atheris

# Their branches are what guides.
with atheris.instrument_imports(
    include=[
        *("PIL", "yaml", "pairlens.pictures", "pairlens_server.yaml_file"),
        *("pairlens_server.config", "pairlens_server.command_line", "pairlens_server.images"),
        *("pairlens_server.models.config", "pairlens_server.models.checkpoints"),
        *("pairlens_server.cache", "pairlens_server.rpc"),
    ]
):
    from tests.fuzz.targets import TARGETS

from tests.fuzz.corpus import CORPUS
from tests.fuzz.mutators import MUTATORS

_NAMES = tuple(TARGETS)


def _taking_turns(data: bytes) -> None:
    if data:
        TARGETS[_NAMES[data[0] % len(_NAMES)]](data[1:])


def _mutator(name: str) -> Callable[[bytes, int, int], bytes]:
    """Changes inputs as their reader understands them, every other time."""

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        random = Random(seed)
        if not data or random.random() < 0.5:
            return bytes(atheris.Mutate(data, max_size))
        changed = _changed(name, random, data)
        return changed if len(changed) <= max_size else bytes(atheris.Mutate(data, max_size))

    return mutate


def _changed(name: str, random: Random, data: bytes) -> bytes:
    if name == "all":
        return data[:1] + MUTATORS[_NAMES[data[0] % len(_NAMES)]](random, data[1:])
    return MUTATORS[name](random, data)


def _corpus(name: str) -> list[bytes]:
    if name != "all":
        return CORPUS[name]()
    return [bytes((number,)) + data for number, n in enumerate(_NAMES) for data in CORPUS[n]()]


def main(arguments: list[str]) -> None:
    """Run until libFuzzer ends the process: 0 when nothing was found."""
    name, *flags = arguments
    with tempfile.TemporaryDirectory() as folder:
        for number, data in enumerate(_corpus(name)):
            (Path(folder) / str(number)).write_bytes(data)
        limits = ["-timeout=20", "-rss_limit_mb=4096", "-max_len=20000"]
        files = [flag for flag in flags if not flag.startswith("-")]
        atheris.Setup(
            [sys.argv[0], *limits, *flags, *([] if files else [folder])],
            _taking_turns if name == "all" else TARGETS[name],
            custom_mutator=_mutator(name),
        )
        atheris.Fuzz()


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # of torch, about pickles
    main(sys.argv[1:])
