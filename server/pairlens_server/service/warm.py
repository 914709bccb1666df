"""Warm: fills the cache, so that later calls find what they need."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from pairlens_server.cache.policy import CachePolicy
from pairlens_server.errors import InvalidParameterError, PairlensError
from pairlens_server.methods.base import ExplanationMethod
from pairlens_server.methods.catalogue import default_pair_method
from pairlens_server.models.loaded import LoadedModel
from pairlens_server.recording.activations import Activation
from pairlens_server.recording.facts import ModelFacts
from pairlens_server.recording.primitives import Embedding, Logits
from pairlens_server.recording.targets import ClassLogit
from pairlens_server.service.call_pictures import Needs
from pairlens_server.service.commands import WarmCommand, WarmOutcome
from pairlens_server.service.findings import PREDICTED, needs, record_picture
from pairlens_server.service.gathering import gather_or_cancel, or_error
from pairlens_server.service.limits import check_count
from pairlens_server.service.pair import resolve_method as resolve_pair_method
from pairlens_server.service.pair_context import partner_free_needs
from pairlens_server.service.pictures import AdmittedPicture
from pairlens_server.service.recorded import NOTHING, PictureRecording
from pairlens_server.service.recordings import CallRecorder
from pairlens_server.service.stopwatch import Stopwatch
from pairlens_server.service.targets import check_target, resolve_method
from pairlens_server.service.use_case import UseCase
from pairlens_server.telemetry.record import name_call


class WarmUseCase(UseCase):
    """Answers Warm calls; each is a `_WarmCall`."""

    async def __call__(self, command: WarmCommand) -> WarmOutcome:
        """Answer one call; an unusable picture fails alone.

        Raises:
            PairlensError: What the caller is told went wrong with the whole call.
        """
        model = self._registry.get(command.model)
        name_call(model=model.name)
        facts = self._engine.facts(model)
        check_count(command.images, self._limits.max_candidates, "images")
        if command.cache is CachePolicy.BYPASS:
            raise InvalidParameterError(
                "cache BYPASS would keep nothing, and Warm is for keeping", field="cache"
            )
        watch = Stopwatch()
        recorder = self._recorder.of_call(command, watch)
        call = _WarmCall(
            model,
            facts,
            recorder,
            tuple(_resolved(m, i, facts) for i, m in enumerate(command.methods)),
            _pair_needs(command, facts),
        )
        sources = [(image, f"images[{index}]") for index, image in enumerate(command.images)]
        taken = await recorder.pictures.take(sources)
        await call.prepare([p for p in taken if isinstance(p, AdmittedPicture)])
        found = await gather_or_cancel([or_error(call.warm(picture)) for picture in taken])
        made = [recording for recording in found if isinstance(recording, PictureRecording)]
        results = tuple(r.cached if isinstance(r, PictureRecording) else r for r in found)
        return WarmOutcome(results, watch.timings(made))


@dataclass(frozen=True, eq=False)
class _WarmCall:
    """What is recorded of every picture."""

    model: LoadedModel
    facts: ModelFacts
    recorder: CallRecorder
    methods: tuple[ExplanationMethod, ...]
    pair_needs: tuple[Activation, ...]

    async def prepare(self, pictures: Sequence[AdmittedPicture]) -> None:
        """Look up all that is wanted of the pictures, and make sure of files that it takes.

        Raises:
            PairlensError: As `CallPictures.prepare`.
        """
        calls = self.recorder.pictures
        first = self._needs(PREDICTED)
        await calls.look_up([(picture, first) for picture in pictures], self.model)
        await calls.prepare([(p, self._needs(self._class_of(p))) for p in pictures], self.model)

    async def warm(self, picture: AdmittedPicture | PairlensError) -> PictureRecording:
        """Record everything of one picture; how that went."""
        if isinstance(picture, PairlensError):
            raise picture
        made = NOTHING
        if self.pair_needs:
            recording = await self.recorder.record(self.model, picture, self.pair_needs)
            made = made.joined(recording.emptied())
        for method in self.methods:
            target = PREDICTED if method.takes_class else None
            recording, _ = await record_picture(
                self.recorder, self.model, self.facts, method, picture, target
            )
            made = made.joined(recording.emptied())
        return made

    def _needs(self, target: ClassLogit) -> Needs:
        """Everything that is wanted of a picture of a class."""
        every = [
            needs(method, self.facts, target if method.takes_class else None)
            for method in self.methods
        ]
        names = [*self.pair_needs, *(a for one in every for a in one.activations)]
        return Needs(tuple(dict.fromkeys(names)), more=any(one.more for one in every))

    def _class_of(self, picture: AdmittedPicture) -> ClassLogit:
        """The predicted class, by its index where that is known."""
        logits = self.recorder.cached(self.model, picture, Logits())
        return PREDICTED if logits is None else ClassLogit(int(logits.argmax()))


def _resolved(method: ExplanationMethod, index: int, facts: ModelFacts) -> ExplanationMethod:
    with _renamed(f"methods[{index}]"):
        resolved = resolve_method(method, None, facts)
        check_target(None, resolved, facts)
    return resolved


def _pair_needs(command: WarmCommand, facts: ModelFacts) -> tuple[Activation, ...]:
    if not command.pair_methods and not command.methods:
        default = default_pair_method(facts)
        return (Embedding(), *(partner_free_needs(default, facts) if default else ()))
    wanted: dict[Activation, None] = {}
    for index, method in enumerate(command.pair_methods):
        with _renamed(f"pair_methods[{index}]"):
            wanted |= dict.fromkeys(partner_free_needs(resolve_pair_method(method, facts), facts))
    return tuple(wanted)


@contextmanager
def _renamed(field: str) -> Iterator[None]:
    """Name a method as it is named here, whatever field it is at fault in elsewhere."""
    try:
        yield
    except PairlensError as error:
        first, dot, rest = error.field.partition(".")
        error.field = field + dot + rest if first == "method" else field
        raise
