"""What the steps of a PairSimilarity call share, and what they need of its pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from pairlens_server.errors import PairlensError
from pairlens_server.methods.catalogue import PairMethod
from pairlens_server.methods.correspondence import Correspondence
from pairlens_server.methods.similarity import PooledDecomposition
from pairlens_server.models.loaded import LoadedModel
from pairlens_server.recording.activations import Activation
from pairlens_server.recording.facts import ModelFacts
from pairlens_server.recording.primitives import Embedding
from pairlens_server.recording.targets import Similarity
from pairlens_server.service.call_pictures import Needs
from pairlens_server.service.commands import PairCommand
from pairlens_server.service.findings import UNKNOWN, needs
from pairlens_server.service.pictures import AdmittedPicture
from pairlens_server.service.recorded import PictureRecording
from pairlens_server.service.recordings import CallRecorder
from pairlens_server.service.stopwatch import Stopwatch

SplitMethod = PooledDecomposition | Correspondence


def partner_free_needs(method: PairMethod, facts: ModelFacts) -> tuple[Activation, ...]:
    """What a resolved method records of a picture, whoever its partner is."""
    if isinstance(method, SplitMethod):
        return method.pair_needs()
    return needs(method, facts, UNKNOWN).activations


@dataclass(frozen=True, eq=False)
class PairContext:
    """What the steps of one call share.

    Attributes:
        command: The call.
        model: The model that was asked.
        facts: Of the model.
        method: Resolved.
        recorder: Gets activations.
        watch: Of the call.
        further: Recordings made besides a picture's first, by the picture's field; without values.
        targets: The similarity to each picture, by the picture's hash.
    """

    command: PairCommand
    model: LoadedModel
    facts: ModelFacts
    method: PairMethod
    recorder: CallRecorder
    watch: Stopwatch
    further: dict[str, list[PictureRecording]] = field(default_factory=dict)
    targets: dict[str, Similarity] = field(default_factory=dict)

    @property
    def needs(self) -> tuple[Activation, ...]:
        """Activations of every picture."""
        return partner_free_needs(self.method, self.facts)

    async def prepare(
        self, query: AdmittedPicture, candidates: Sequence[AdmittedPicture | PairlensError]
    ) -> None:
        """Look up all that is wanted of the pictures, and make sure of files that it takes.

        Raises:
            PairlensError: As `CallPictures.prepare`.
        """
        usable = [c for c in candidates if isinstance(c, AdmittedPicture)]
        wanted = [(picture, Needs(self.needs)) for picture in (query, *usable)]
        method, pictures = self.method, self.recorder.pictures
        if not isinstance(method, SplitMethod):
            await pictures.look_up(wanted, self.model)
            mine = self.target_to(query)
            for candidate in usable:
                other = self.target_to(candidate)
                if mine is not None and other is not None:
                    wanted.append((query, needs(method, self.facts, other)))
                    wanted.append((candidate, needs(method, self.facts, mine)))
        await pictures.prepare(wanted, self.model)

    def target_to(self, picture: AdmittedPicture) -> Similarity | None:
        """The similarity to a picture: `UNKNOWN` if nobody has seen it, None if none exists."""
        known = self.targets.get(picture.sha256)
        if known is None:
            embedding = self.recorder.cached(self.model, picture, Embedding())
            if embedding is None:
                return UNKNOWN
            if not bool(embedding.any()):
                return None
            known = self.targets[picture.sha256] = Similarity.to(embedding[None])
        return known
