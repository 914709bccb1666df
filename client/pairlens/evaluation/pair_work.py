"""One row of PairFaith on one case: the calls, and the numbers made of their answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from pairlens._images import EncodedImage
from pairlens.client import Client
from pairlens.evaluation import pair_scores
from pairlens.evaluation.controls import RANDOM
from pairlens.evaluation.dataset import Dataset
from pairlens.evaluation.pair_maps import PairMapMaker, PairMaps, naming
from pairlens.evaluation.pair_measures import HEADLINE, RANK_FRACTION, SIDES, PairOptions, suffixed
from pairlens.evaluation.pair_scores import UndefinedScoreError
from pairlens.evaluation.pairs import PairCase
from pairlens.evaluation.records import DrawnMap, Record, Series
from pairlens.metrics import Curve, Metric, SaliencyScores
from pairlens.rendering import FloatArray
from pairlens.targets import SimilarTo

_ORDERS = {"morf": "most_relevant_first", "lerf": "least_relevant_first"}


@dataclass(frozen=True, eq=False)
class PairData:
    """What all cases share.

    Attributes:
        client: Connected to the server that holds the model.
        model: Its name.
        maker: Of the maps.
        options: Of the protocol.
        dataset: The pictures.
        vectors: float32 [pictures, C] embeddings of length 1; NaN where there is none.
        random_hits: By case, whether the query was still found with a random part erased.
    """

    client: Client
    model: str
    maker: PairMapMaker
    options: PairOptions
    dataset: Dataset
    vectors: FloatArray
    # Filled by several threads; two that come to one case find the same.
    random_hits: dict[str, bool] = field(default_factory=dict)


class PairWork:
    """The numbers of one row on one case."""

    def __init__(self, data: PairData, row: str, case: str, chosen: PairCase) -> None:
        """Read the pictures.

        Args:
            data: What all cases share.
            row: Name of the row.
            case: Key of the case.
            chosen: Its pictures.

        Raises:
            UnusableFileError: A picture cannot be read any more.
        """
        self._data, self._row, self._case, self._chosen = data, row, case, chosen
        self._query, self._positive, self._second = (
            self._read(index) for index in (chosen.query, chosen.positive, chosen.second)
        )
        self._values: dict[str, float | None] = {}
        self._notes: dict[str, str] = {}
        self._curves: dict[str, Series] = {}

    def record(self) -> Record:
        """Make the calls.

        Raises:
            UnusableFileError: The server cannot use a picture.
            PairlensError: A call failed.
        """
        with naming(self._path(self._chosen.query), self._partners()):
            return self._record()

    def _record(self) -> Record:
        data, chosen = self._data, self._chosen
        pictures = (self._positive, self._second)
        first, second = data.maker.maps(self._row, self._case, self._query, pictures)
        answers = [self._scores(first, substrate) for substrate in data.options.substrates]
        for substrate, answer in zip(data.options.substrates, answers, strict=True):
            self._areas(_curves(answer), substrate)
        morf = _curves(answers[0])["morf", "image"]
        self._pair_only(morf, first, second)
        return Record(
            self._row,
            self._case,
            data.dataset.images[chosen.query].label,
            values=self._values,
            curves=self._curves,
            maps=self._drawn(first),
            notes=self._notes,
        )

    def _path(self, index: int) -> str:
        return self._data.dataset.images[index].path

    def _partners(self) -> list[str]:
        return [self._path(self._chosen.positive), self._path(self._chosen.second)]

    def _read(self, index: int) -> EncodedImage:
        return self._data.dataset.encoded(self._path(index))

    def _scores(self, maps: PairMaps, substrate: str) -> SaliencyScores:
        """All curves of a pair of maps, with the embeddings of the copies."""
        return self._call(maps.query.values, maps.partner.values, substrate, tuple(_ORDERS), SIDES)

    def _morf(self, query_map: FloatArray) -> Curve:
        """The copies of the query alone, most relevant first."""
        substrate = self._data.options.substrates[0]
        return _curves(self._call(query_map, None, substrate, ("morf",), ("image",)))[
            "morf", "image"
        ]

    def _call(
        self,
        query_map: FloatArray,
        partner_map: FloatArray | None,
        substrate: str,
        orders: Sequence[str],
        sides: Sequence[str],
    ) -> SaliencyScores:
        options = self._data.options
        return self._data.client.score_saliency(
            self._query,
            model=self._data.model,
            heatmap=query_map,
            partner_heatmap=partner_map,
            extent="grid",
            target=SimilarTo(self._positive),
            metrics=[
                Metric.of(
                    "deletion",
                    profile="strict",
                    fractions=options.fractions,
                    substrate=substrate,
                    unit="cells",
                    order=_ORDERS[order],
                )
                for order in orders
            ],
            sides=sides,
            enlargement="nearest",
            return_embeddings=True,
            timeout=options.timeout,
        )

    def _areas(self, curves: Mapping[tuple[str, str], Curve], substrate: str) -> None:
        filled = {side: float(curves["morf", side].scores[-1]) for side in ("image", "partner")}
        floors = {**filled, "both": pair_scores.joint_floor(filled["image"], filled["partner"])}

        def named(name: str) -> str:
            return suffixed(name, self._data.options.substrates, substrate)

        for side in SIDES:
            self._side_areas(side, curves, floors[side], named)
        one, other = (named(f"{side}.srg") for side in ("image", "partner"))
        gains = [gain for gain in map(self._values.get, (one, other)) if gain is not None]
        if len(gains) == 2:
            self._values[named(HEADLINE)] = sum(gains) / 2
        else:
            self._undefined(named(HEADLINE), self._notes.get(one) or self._notes[other])

    def _side_areas(
        self,
        side: str,
        curves: Mapping[tuple[str, str], Curve],
        floor: float,
        named: Callable[[str], str],
    ) -> None:
        areas: dict[str, float] = {}
        clean = float(curves["morf", side].scores[0])
        try:
            for order in _ORDERS:
                curve = curves[order, side]
                scores = pair_scores.normalised(curve.scores, clean, floor)
                areas[order] = pair_scores.area(curve.fractions, scores)
                self._curves[named(f"{order}.{side}")] = Series(
                    tuple(curve.fractions.tolist()), tuple(scores.tolist())
                )
        except UndefinedScoreError as error:
            for name in ("srg", "del_auc", "ins_auc"):
                self._undefined(named(f"{side}.{name}"), str(error))
            return
        self._values[named(f"{side}.srg")] = areas["lerf"] - areas["morf"]
        self._values[named(f"{side}.del_auc")] = areas["morf"]
        self._values[named(f"{side}.ins_auc")] = areas["lerf"]

    def _undefined(self, name: str, why: str) -> None:
        self._values[name] = None
        self._notes[name] = why

    def _pair_only(self, morf: Curve, first: PairMaps, second: PairMaps) -> None:
        same = first.query is second.query
        others = morf if same else self._morf(second.query.values)
        self._defined("contrast", lambda: self._contrast(morf))
        self._defined("specificity", lambda: self._contrast(morf) - self._contrast(others))
        self._defined("rank_drop", lambda: float(self._hit(morf)) - self._random_hit(morf))
        self._values["completeness"] = first.completeness_error
        if first.completeness_error is None:
            self._undefined("completeness", "a control's map is no share of the similarity")
        self._defined(
            "partner_correlation",
            lambda: pair_scores.spearman(first.query.values, second.query.values),
        )

    def _defined(self, name: str, value: Callable[[], float]) -> None:
        try:
            self._values[name] = value()
        except UndefinedScoreError as error:
            self._undefined(name, str(error))

    def _contrast(self, curve: Curve) -> float:
        assert curve.embeddings is not None  # asked for
        return pair_scores.contrast(
            curve.fractions,
            curve.embeddings,
            self._data.vectors[self._chosen.positive],
            self._data.vectors[self._chosen.negative],
        )

    def _hit(self, curve: Curve) -> bool:
        assert curve.embeddings is not None  # asked for
        labels = [image.label for image in self._data.dataset.images]
        return pair_scores.hit(
            curve.embeddings[pair_scores.nearest_point(curve.fractions, RANK_FRACTION)],
            self._data.vectors,
            labels,
            self._chosen.duplicates,
            labels[self._chosen.query],
        )

    def _random_hit(self, morf: Curve) -> bool:
        hits = self._data.random_hits
        if self._case not in hits:
            if self._row != RANDOM:
                random_map = self._data.maker.drawn(RANDOM, self._query, self._case)
                morf = self._morf(random_map.values)
            hits[self._case] = self._hit(morf)
        return hits[self._case]

    def _drawn(self, maps: PairMaps) -> tuple[DrawnMap, ...]:
        return (
            maps.query.drawn(self._path(self._chosen.query), "query"),
            maps.partner.drawn(self._path(self._chosen.positive), "partner"),
        )


def _curves(answer: SaliencyScores) -> dict[tuple[str, str], Curve]:
    """By order ("morf", "lerf") and side."""
    names = {order: name for name, order in _ORDERS.items()}
    curves = {}
    for score in answer.scores:
        assert score.curve is not None  # of every deletion
        curves[names[str(score.metric.parameters["order"])], score.side] = score.curve
    return curves
