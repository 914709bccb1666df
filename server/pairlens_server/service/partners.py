"""The pictures and embeddings that a similarity target names."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import torch
from torch import Tensor

from pairlens_server.errors import InvalidParameterError
from pairlens_server.models.loaded import LoadedModel
from pairlens_server.recording.primitives import Embedding
from pairlens_server.service.call_pictures import Needs, Wanted
from pairlens_server.service.commands import SimilarityTarget
from pairlens_server.service.gathering import gather_or_cancel
from pairlens_server.service.limits import ServiceLimits
from pairlens_server.service.pictures import AdmittedPicture
from pairlens_server.service.recorded import PictureRecording
from pairlens_server.service.recordings import CallRecorder, zero_embedding
from pairlens_server.service.targets import check_embeddings
from pairlens_server.service.threads import off_loop


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


async def take_partners(
    recorder: CallRecorder,
    target: SimilarityTarget,
    model: LoadedModel,
    limits: ServiceLimits,
    *,
    looked_at: bool = False,
) -> list[tuple[AdmittedPicture, Needs]]:
    """Check a target, and take on its pictures.

    Args:
        recorder: Of the call.
        target: What the call asks about.
        model: Whose embeddings are meant.
        limits: Of the call.
        looked_at: Whether the pictures are looked at in any case.

    Returns:
        The pictures in order, each with what is wanted of it.

    Raises:
        InvalidParameterError: Too many pictures or embeddings, or embeddings of another model;
            names the field.
        PairlensError: As `CallRecorder.take_all`.
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
    pictures = await recorder.take_all(
        [(image, f"target.similarity.images[{i}]") for i, image in enumerate(target.images)]
    )
    return [(picture, Needs((Embedding(),), more=looked_at)) for picture in pictures]


async def find_partners(
    recorder: CallRecorder, target: SimilarityTarget, model: LoadedModel, partners: Wanted
) -> Partners:
    """Get the embeddings of a target's pictures, of equal ones once, and add those given.

    Args:
        recorder: Of the call.
        target: What the call asks about.
        model: Who sees the pictures.
        partners: Of `take_partners`, prepared.

    Raises:
        InvalidParameterError: An embedding is zero; names the field.
        PairlensError: As `CallRecorder.record`.
    """
    pictures = [picture for picture, _ in partners]

    async def record(picture: AdmittedPicture) -> PictureRecording:
        recording = await recorder.record(model, picture, [Embedding()])
        if not bool(recording.values[Embedding()].any()):
            raise zero_embedding(picture.field)
        return recording

    once = {picture.sha256: picture for picture in reversed(pictures)}
    recordings = await gather_or_cancel([record(picture) for picture in once.values()])
    by_sha256 = dict(zip(once, recordings, strict=True))
    found = [by_sha256[picture.sha256].values[Embedding()] for picture in pictures]
    given = [] if target.embeddings is None else [torch.from_numpy(target.embeddings)]
    # A gallery may hold hundreds of megabytes: off the event loop.
    rows = [*(embedding[None] for embedding in found), *given]
    together = await off_loop(sum(row.numel() for row in rows), torch.cat, rows)
    return Partners(tuple(pictures), together, tuple(recordings))
