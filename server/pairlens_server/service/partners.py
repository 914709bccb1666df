"""The pictures and embeddings that a similarity target names."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import torch
from torch import Tensor

from pairlens_server.errors import InvalidParameterError
from pairlens_server.models.loaded import LoadedModel
from pairlens_server.recording.primitives import Embedding
from pairlens_server.service.commands import SimilarityTarget
from pairlens_server.service.gathering import IMAGE_JOBS, gather_or_cancel
from pairlens_server.service.limits import ServiceLimits
from pairlens_server.service.recordings import (
    AdmittedPicture,
    PictureRecorder,
    PictureRecording,
    zero_embedding,
)
from pairlens_server.service.stopwatch import Stopwatch
from pairlens_server.service.targets import check_embeddings


@dataclass(frozen=True, eq=False)
class Partners:
    """What a similarity target came to.

    Attributes:
        pictures: Of its images, in order.
        embeddings: float32 [count, embedding_size]: of its images, then those given.
        recordings: How the images' embeddings were got, one for each distinct picture.
    """

    pictures: tuple[AdmittedPicture, ...]
    embeddings: Tensor
    recordings: tuple[PictureRecording, ...]


async def find_partners(
    recorder: PictureRecorder,
    model: LoadedModel,
    target: SimilarityTarget,
    limits: ServiceLimits,
    deadline_s: float | None,
    watch: Stopwatch,
) -> Partners:
    """Get the embeddings of a target's pictures, of equal ones once, and add those given.

    Raises:
        InvalidParameterError: Too many pictures or embeddings, embeddings of another model,
            or a zero embedding; names the field.
        PairlensError: As `PictureRecorder.admit` and `PictureRecorder.record`.
    """
    if len(target.images) > limits.max_candidates:
        raise InvalidParameterError(
            f"{len(target.images)} pictures; a call takes at most "
            f"{limits.max_candidates}, and embeddings of more",
            field="target.similarity.images",
        )
    if target.embeddings is not None:
        await asyncio.to_thread(
            check_embeddings, target.embeddings, model.embedding_size, limits.max_target_embeddings
        )
    image_jobs = asyncio.Semaphore(IMAGE_JOBS)

    async def admit(data: bytes, field: str) -> AdmittedPicture:
        async with image_jobs:
            return await recorder.admit(data, field, model, None)

    async def record(picture: AdmittedPicture) -> PictureRecording:
        recording = await recorder.record(model, picture, [Embedding()], deadline_s)
        if not bool(recording.values[Embedding()].any()):
            raise zero_embedding(picture.field)
        return recording

    with watch.stage("decode"):
        pictures = await gather_or_cancel(
            [
                admit(data, f"target.similarity.images[{index}]")
                for index, data in enumerate(target.images)
            ]
        )
    once = {picture.sha256: picture for picture in reversed(pictures)}
    recordings = await gather_or_cancel([record(picture) for picture in once.values()])
    by_sha256 = dict(zip(once, recordings, strict=True))
    found = [by_sha256[picture.sha256].values[Embedding()] for picture in pictures]
    given = [] if target.embeddings is None else [torch.from_numpy(target.embeddings)]
    # A gallery may hold hundreds of megabytes: off the event loop.
    rows = [*(embedding[None] for embedding in found), *given]
    together = await asyncio.to_thread(torch.cat, rows)
    return Partners(tuple(pictures), together, tuple(recordings))
