"""The embeddings of a whole data set, kept in the run's directory."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pairlens._images import EncodedImage
from pairlens.client import Client
from pairlens.errors import PairlensError
from pairlens.evaluation.dataset import Dataset, LabelledImage
from pairlens.evaluation.protocol import UnusableFileError
from pairlens.evaluation.records import SkippedFile
from pairlens.models import ModelInfo
from pairlens.rendering import FloatArray

Progress = Callable[[str, int, int], None]
"""Told what is being done, how much of it is, and how much there is."""

_SAVE_EVERY = 16  # calls
_BATCH = 32


@dataclass(frozen=True, eq=False)
class DataEmbeddings:
    """Embeddings of a data set.

    Attributes:
        vectors: float32 [pictures, embedding_size], each of length 1; NaN where a picture
            has none.
        skipped: Pictures without an embedding, and why.
    """

    vectors: FloatArray
    skipped: tuple[SkippedFile, ...]

    @property
    def usable(self) -> list[int]:
        """Indices of the pictures that have an embedding."""
        return [int(index) for index in np.flatnonzero(np.isfinite(self.vectors).all(axis=1))]


def embed_data(
    client: Client,
    model: ModelInfo,
    data: Dataset,
    directory: Path,
    *,
    timeout: float | None = None,
    progress: Progress | None = None,
) -> DataEmbeddings:
    """Embed all pictures, or those that an interrupted run left.

    Args:
        client: Connected to the server that holds the model.
        model: Whose embeddings.
        data: The pictures.
        directory: Where the numbers are kept, in a file for each model and data set.
        timeout: Seconds for each call; None for the client's.
        progress: Called after each call.

    Raises:
        PairlensError: A call failed as a whole.
    """
    images = data.images
    # The files in their order: rows of the array are theirs.
    parts = [model.fingerprint, *(image.digest for image in images)]
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
    path = directory / f"embeddings-{key}.npy"
    vectors = _kept(path, len(images), model.embedding_size)
    skipped: list[SkippedFile] = []
    # What has failed is NaN and asked for again: the reason is not kept.
    missing = [int(index) for index in np.flatnonzero(np.isnan(vectors).any(axis=1))]
    done = len(images) - len(missing)
    for call, batch in enumerate(_batches(data, missing, skipped), 1):
        answer = client.embed([picture for _, picture in batch], model=model.name, timeout=timeout)
        for place, (index, _) in enumerate(batch):
            vectors[index] = answer.vectors[place]
            if place in answer.failures:
                skipped.append(_skipped(images[index], answer.failures[place]))
        if call % _SAVE_EVERY == 0:
            _keep(path, vectors)
        done += len(batch)
        if progress is not None:
            progress("embedding pictures", done, len(images))
    if missing:
        _keep(path, vectors)
    return DataEmbeddings(*_scaled(vectors, images, skipped))


def _batches(
    data: Dataset,
    indices: Sequence[int],
    skipped: list[SkippedFile],
) -> Iterator[list[tuple[int, EncodedImage]]]:
    """Pictures of one call each; files that cannot be read are added to `skipped`."""
    batch: list[tuple[int, EncodedImage]] = []
    for index in indices:
        try:
            batch.append((index, data.encoded(data.images[index].path)))
        except UnusableFileError as error:
            skipped.append(SkippedFile(error.path, error.reason))
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _scaled(
    vectors: FloatArray, images: Sequence[LabelledImage], skipped: list[SkippedFile]
) -> tuple[FloatArray, tuple[SkippedFile, ...]]:
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1)
    zero = (images[index].path for index in np.flatnonzero(lengths == 0).tolist())
    skipped.extend(SkippedFile(path, "its embedding is zero") for path in zero)
    with np.errstate(invalid="ignore", divide="ignore"):
        unit = (vectors / lengths[:, None]).astype(np.float32)
    return unit, tuple(skipped)


def _skipped(image: LabelledImage, error: PairlensError) -> SkippedFile:
    return SkippedFile(image.path, error.message)


def _kept(path: Path, count: int, size: int) -> FloatArray:
    try:
        kept = np.load(path, allow_pickle=False)
    except (OSError, ValueError):
        kept = None
    if kept is None or kept.shape != (count, size) or kept.dtype != np.float32:
        return np.full((count, size), np.nan, np.float32)
    return np.asarray(kept)


def _keep(path: Path, vectors: FloatArray) -> None:
    # Replaced at once: an interruption leaves the old file or the new one.
    part = path.with_suffix(".part.npy")
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(part, vectors)
    part.replace(path)
