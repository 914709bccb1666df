"""Pictures of a folder, and what `pairlens warm --json` says of them."""

from __future__ import annotations

import hashlib
import json

from tests.client.scripted import png


def picture(number: int) -> bytes:
    return png(20, 20 + number)


def hashes(*numbers: int) -> list[str]:
    return sorted(hashlib.sha256(picture(number)).hexdigest() for number in numbers)


def counts(out: str) -> dict[str, object]:
    names = ("pictures", "computed", "cached", "finished_before", "failed", "other_files")
    document = json.loads(out)
    return {name: document[name] for name in names if document[name]}
