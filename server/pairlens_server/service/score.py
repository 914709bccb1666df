"""ScoreSaliency: how faithful a map is to what a model does."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pairlens_server.engine.engine import Engine
from pairlens_server.fidelity.copies import Side
from pairlens_server.fidelity.metrics import ErasureMetric, Metric
from pairlens_server.fidelity.parameters import Board
from pairlens_server.fidelity.pointing import LocalisationMetric
from pairlens_server.models.registry import ModelRegistry
from pairlens_server.service.commands import SimilarityTarget, Timings
from pairlens_server.service.limits import ServiceLimits
from pairlens_server.service.recordings import PictureRecorder
from pairlens_server.service.score_checks import check_command, metric_field
from pairlens_server.service.score_commands import MetricOutcome, ScoreCommand, ScoreOutcome
from pairlens_server.service.score_copies import (
    check_embeddings_returned,
    maps_for_copies,
    wanted_copies,
)
from pairlens_server.service.score_maps import PlacedMap, place_given_map, place_method_map
from pairlens_server.service.score_readings import Found
from pairlens_server.service.score_sources import MapSource, MethodMaps, together
from pairlens_server.service.score_subjects import ScoreContext, Subject, find_subject
from pairlens_server.service.stopwatch import Stopwatch
from pairlens_server.service.use_case import UseCase
from pairlens_server.telemetry.record import Stage, name_call


class ScoreUseCase(UseCase):
    """Answers ScoreSaliency calls; each is a `_ScoreCall`."""

    def __init__(
        self,
        registry: ModelRegistry,
        engine: Engine,
        recorder: PictureRecorder,
        limits: ServiceLimits,
        source: MapSource,
    ):
        super().__init__(registry, engine, recorder, limits)
        self._source = source

    async def __call__(self, command: ScoreCommand) -> ScoreOutcome:
        """Answer one call.

        Raises:
            PairlensError: What the caller is told went wrong.
        """
        model = self._registry.get(command.model)
        name_call(model=model.name)
        facts = self._engine.facts(model)
        check_command(command, facts, self._limits)
        watch = Stopwatch()
        recorder = self._recorder.of_call(command, watch)
        context = ScoreContext(command, model, facts, recorder, self._limits, watch)
        return await _ScoreCall(context, self._source).answer()


@dataclass(frozen=True, eq=False)
class _Probed:
    """What the copies of a call came to."""

    found: Found
    passes: int
    queue_s: float = 0.0
    compute_s: float = 0.0


class _ScoreCall:
    """The steps of one call."""

    def __init__(self, context: ScoreContext, source: MapSource):
        self._context = context
        self._command = context.command
        self._model = context.model
        self._watch = context.watch
        self._source = source

    async def answer(self) -> ScoreOutcome:
        """Check, get the maps, make and score copies, judge."""
        settings = self._model.preprocessing
        # Before the maps' own grid is known: whatever no grid could allow is refused here.
        await asyncio.to_thread(self._resolved, self._board(settings.height * settings.width))
        subject = await find_subject(self._context)
        made = await self._source.maps(self._command, self._mapped(subject))
        with self._watch.stage(Stage.METHOD):
            maps = await asyncio.to_thread(self._placed, subject, made)
            board = self._board(maps[subject.reading.changed[0]].cells)
            metrics = await asyncio.to_thread(self._resolved, board)
        probed = await self._probe(subject, metrics, maps, board)
        with self._watch.stage(Stage.METHOD):
            results = await asyncio.to_thread(
                self._judge, subject, metrics, maps, probed.found, board
            )
        return ScoreOutcome(
            model=self._model,
            results=tuple(results),
            target=subject.reading.described(),
            method=made.method if made else None,
            pair_method=made.pair_method if made else None,
            heatmap=made.maps.get(Side.IMAGE) if made else None,
            partner_heatmap=made.maps.get(Side.PARTNER) if made else None,
            enlargement=self._command.enlargement,
            forward_passes=probed.passes,
            timings=self._timings(subject, made, probed),
        )

    def _mapped(self, subject: Subject) -> tuple[Side, ...]:
        """Pictures whose maps are looked at; the localisation games look at the image's."""
        games = any(isinstance(metric, LocalisationMetric) for metric in self._command.metrics)
        first = (Side.IMAGE,) if games else ()
        return tuple(dict.fromkeys((*first, *subject.reading.changed)))

    def _board(self, cells: int) -> Board:
        settings = self._model.preprocessing
        return Board(settings.height, settings.width, cells, self._context.facts.black)

    def _resolved(self, board: Board) -> list[Metric]:
        similarity = isinstance(self._command.target, SimilarityTarget)
        resolved = []
        for index, metric in enumerate(self._command.metrics):
            found = metric.resolve(board, metric_field(index, metric))
            if similarity and isinstance(found, ErasureMetric):
                # There is no class, and what is echoed can be sent again.
                found = replace(found, scored_class=None)
            resolved.append(found)
        return resolved

    def _placed(self, subject: Subject, made: MethodMaps | None) -> dict[Side, PlacedMap]:
        """The maps that are looked at and those that are given, on the model's input."""
        command = self._command
        given = {
            Side.IMAGE: (command.heatmap, "heatmap"),
            Side.PARTNER: (command.partner_heatmap, "partner_heatmap"),
        }
        if made is not None:
            return {
                side: place_method_map(made.maps[side], self._model, command.enlargement)
                for side in self._mapped(subject)
            }
        return {
            side: place_given_map(
                heatmap,
                subject.pictures[side],
                self._model,
                self._context.facts,
                command.enlargement,
                field,
            )
            # One that no metric looks at must be a map, too.
            for side, (heatmap, field) in given.items()
            if heatmap is not None
        }

    async def _probe(
        self,
        subject: Subject,
        metrics: Sequence[Metric],
        maps: Mapping[Side, PlacedMap],
        board: Board,
    ) -> _Probed:
        """Score every copy that any metric needs, once."""
        limits, facts = self._context.limits, self._context.facts
        changed, clean = subject.reading.changed, len(subject.recordings)
        most = max(0, limits.max_copies - clean) // len(changed)
        wanted = await asyncio.to_thread(wanted_copies, metrics, board, most, limits)
        if not wanted:
            return _Probed({}, clean)
        if self._command.return_embeddings:
            sides = self._context.sides
            check_embeddings_returned(metrics, board, sides, facts.embedding_size, limits)
        placed = [maps[side] for side in changed]
        on_input = await asyncio.to_thread(maps_for_copies, wanted, placed, self._model)
        probe = subject.reading.probe(wanted, on_input)
        pictures = [subject.pictures[side] for side in changed]
        result, queue_s, compute_s = await self._context.recorder.probe_pictures(
            self._model, pictures, probe
        )
        rows = dict(zip(wanted, result, strict=True))
        passes = clean + len(wanted) * len(changed)
        return _Probed(rows, passes, queue_s, compute_s)

    def _judge(
        self,
        subject: Subject,
        metrics: Sequence[Metric],
        maps: Mapping[Side, PlacedMap],
        found: Found,
        board: Board,
    ) -> list[MetricOutcome]:
        results: list[MetricOutcome] = []
        games = {
            metric: self._localised(metric, maps[Side.IMAGE])
            for metric in dict.fromkeys(metrics)
            if isinstance(metric, LocalisationMetric)
        }
        for metric in metrics:
            if isinstance(metric, LocalisationMetric):
                results.append(games[metric])
            elif isinstance(metric, ErasureMetric):
                results += [
                    self._erased(metric, s, subject, found, board) for s in self._context.sides
                ]
        return results

    def _localised(self, metric: LocalisationMetric, placed: PlacedMap) -> MetricOutcome:
        region = self._command.region
        assert region is not None
        verdict = metric.judge(placed.values, placed.geometry, region)
        return MetricOutcome(metric, Side.IMAGE, verdict.value, verdict.undefined)

    def _erased(
        self, metric: ErasureMetric, side: Side, subject: Subject, found: Found, board: Board
    ) -> MetricOutcome:
        reading = subject.reading
        verdict = metric.judge(reading.scores(found, side, metric), board)
        curve = None if verdict.curve is None else reading.curve(verdict.curve, found, side)
        return MetricOutcome(
            metric=metric,
            side=side,
            value=verdict.value,
            undefined=verdict.undefined,
            normalized_value=verdict.normalized_value,
            curve=curve,
            clean_score=verdict.clean_score,
            masked_score=verdict.masked_score,
            class_index=reading.class_index(metric),
        )

    def _timings(self, subject: Subject, made: MethodMaps | None, probed: _Probed) -> Timings:
        own = self._watch.timings(subject.recordings)
        own = replace(
            own,
            queue_s=own.queue_s + probed.queue_s,
            compute_s=own.compute_s + probed.compute_s,
        )
        return together(own, made.timings if made else ())
