"""The predicted classes of a whole data set, kept in the run's directory."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from pairlens.client import Client
from pairlens.errors import ImageTooLargeError, ImageUndecodableError, NotFiniteError
from pairlens.evaluation.dataset import Dataset
from pairlens.evaluation.embeddings import Progress
from pairlens.evaluation.protocol import UnusableFileError
from pairlens.evaluation.records import SkippedFile
from pairlens.evaluation.served import predicted_class
from pairlens.models import ModelInfo

_CALLS_AT_ONCE = 4
_SAVE_EVERY_S = 3.0
_UNUSABLE = ImageUndecodableError, ImageTooLargeError, NotFiniteError

Predictions = dict[str, int]


def predict_data(
    client: Client,
    model: ModelInfo,
    data: Dataset,
    directory: Path,
    *,
    timeout: float | None = None,
    progress: Progress | None = None,
) -> tuple[Predictions, tuple[SkippedFile, ...]]:
    """Predict the classes of all pictures, or of those that an interrupted run left.

    Args:
        client: Connected to the server that holds the model.
        model: What predicts.
        data: The pictures.
        directory: Where classes, and reasons why there are none, are kept every few
            seconds, in a file for each model and data set.
        timeout: Seconds for each call; None for the client's.
        progress: Called after each picture.

    Returns:
        Classes by path; pictures that the model can make nothing of.

    Raises:
        PairlensError: A call failed for another reason than its picture. What was predicted
            before is kept.
    """
    paths = [image.path for image in data.images]
    parts = [model.fingerprint, *(image.digest for image in data.images)]
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
    kept = directory / f"predictions-{key}.json"
    found = _kept(kept, len(paths))
    missing = [place for place, each in enumerate(found) if each is None]

    def predict(place: int) -> int | str:
        try:
            return predicted_class(client, model, data.encoded(paths[place]), timeout=timeout)
        except UnusableFileError as error:
            return error.reason
        except _UNUSABLE as error:
            return error.message

    def told(count: int) -> None:
        if progress is not None:
            progress("predicting classes", len(paths) - len(missing) + count, len(paths))

    _fill(found, missing, predict, lambda: _keep(kept, found), told)
    classes = {path: each for path, each in zip(paths, found, strict=True) if isinstance(each, int)}
    reasons = ((path, each) for path, each in zip(paths, found, strict=True))
    return classes, tuple(SkippedFile(path, why) for path, why in reasons if isinstance(why, str))


def _fill(
    found: list[int | str | None],
    missing: Sequence[int],
    predict: Callable[[int], int | str],
    keep: Callable[[], None],
    told: Callable[[int], None],
) -> None:
    """Predict what is missing, and keep it every few seconds and whatever ends it."""
    executor = ThreadPoolExecutor(_CALLS_AT_ONCE, thread_name_prefix="pairlens-predict")
    futures = {executor.submit(predict, place): place for place in missing}
    saved = time.monotonic()
    try:
        for count, future in enumerate(as_completed(futures), 1):
            found[futures[future]] = future.result()
            if time.monotonic() - saved >= _SAVE_EVERY_S:
                keep()
                saved = time.monotonic()
            told(count)
    finally:
        executor.shutdown(wait=False, cancel_futures=True)
        for future, place in futures.items():
            if future.done() and not future.cancelled() and future.exception() is None:
                found[place] = future.result()
        if missing:
            keep()


def _kept(path: Path, count: int) -> list[int | str | None]:
    """A class or a reason of each picture; None where it was not asked for yet."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = []
    fits = isinstance(found, list) and len(found) == count
    return found if fits else [None] * count


def _keep(path: Path, found: Sequence[int | str | None]) -> None:
    # Replaced at once: an interruption leaves the old file or the new one.
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(found), encoding="utf-8")
    part.replace(path)
