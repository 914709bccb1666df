"""Embed: the embeddings whose cosine PairSimilarity explains."""

from __future__ import annotations

import asyncio

import numpy as np

from pairlens_server.errors import InvalidParameterError, PairlensError
from pairlens_server.recording.primitives import Embedding
from pairlens_server.service.commands import Float32Array
from pairlens_server.service.gathering import IMAGE_JOBS, gather_or_cancel, or_error
from pairlens_server.service.recordings import PictureRecording
from pairlens_server.service.score_commands import EmbedCommand, EmbedOutcome
from pairlens_server.service.stopwatch import Stopwatch
from pairlens_server.service.use_case import UseCase


class EmbedUseCase(UseCase):
    """Answers Embed calls."""

    async def __call__(self, command: EmbedCommand) -> EmbedOutcome:
        """Answer one call; an unusable picture fails alone.

        Raises:
            PairlensError: What the caller is told went wrong with the whole call.
        """
        watch = Stopwatch()
        model = self._registry.get(command.model)
        count, limit = len(command.images), self._limits.max_candidates
        if not 1 <= count <= limit:
            raise InvalidParameterError(
                f"{count} images; a call takes 1 to {limit}", field="images"
            )
        image_jobs = asyncio.Semaphore(IMAGE_JOBS)

        async def embed(data: bytes, field: str) -> PictureRecording:
            async with image_jobs:
                picture = await self._recorder.admit(data, field, model, None)
            return await self._recorder.record(model, picture, [Embedding()], command.deadline_s)

        found = await gather_or_cancel(
            [or_error(embed(data, f"images[{index}]")) for index, data in enumerate(command.images)]
        )
        results: tuple[Float32Array | PairlensError, ...] = tuple(
            np.ascontiguousarray(r.values[Embedding()].numpy())
            if isinstance(r, PictureRecording)
            else r
            for r in found
        )
        used = [recording for recording in found if isinstance(recording, PictureRecording)]
        return EmbedOutcome(model, results, watch.timings(used))
