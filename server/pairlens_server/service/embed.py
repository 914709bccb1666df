"""Embed: the embeddings whose cosine PairSimilarity explains."""

from __future__ import annotations

import numpy as np

from pairlens_server.errors import PairlensError
from pairlens_server.recording.primitives import Embedding
from pairlens_server.service.call_pictures import Needs
from pairlens_server.service.commands import Float32Array
from pairlens_server.service.gathering import gather_or_cancel, or_error
from pairlens_server.service.limits import check_count
from pairlens_server.service.pictures import AdmittedPicture
from pairlens_server.service.recorded import PictureRecording
from pairlens_server.service.score_commands import EmbedCommand, EmbedOutcome
from pairlens_server.service.stopwatch import Stopwatch
from pairlens_server.service.use_case import UseCase
from pairlens_server.telemetry.record import name_call


class EmbedUseCase(UseCase):
    """Answers Embed calls."""

    async def __call__(self, command: EmbedCommand) -> EmbedOutcome:
        """Answer one call; an unusable picture fails alone.

        Raises:
            PairlensError: What the caller is told went wrong with the whole call.
        """
        watch = Stopwatch()
        model = self._registry.get(command.model)
        name_call(model=model.name)
        check_count(command.images, self._limits.max_candidates, "images")
        recorder = self._recorder.of_call(command, watch)
        sources = [(image, f"images[{index}]") for index, image in enumerate(command.images)]
        taken = await recorder.pictures.take(sources)
        pictures = [picture for picture in taken if isinstance(picture, AdmittedPicture)]
        await recorder.pictures.prepare([(p, Needs((Embedding(),))) for p in pictures], model)

        async def embed(picture: AdmittedPicture | PairlensError) -> PictureRecording:
            if isinstance(picture, PairlensError):
                raise picture
            return await recorder.record(model, picture, [Embedding()])

        found = await gather_or_cancel([or_error(embed(picture)) for picture in taken])
        results: tuple[Float32Array | PairlensError, ...] = tuple(
            np.ascontiguousarray(r.values[Embedding()].numpy())
            if isinstance(r, PictureRecording)
            else r
            for r in found
        )
        used = [recording for recording in found if isinstance(recording, PictureRecording)]
        return EmbedOutcome(model, results, watch.timings(used))
