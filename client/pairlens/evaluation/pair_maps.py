"""The maps of a pair that rows of PairFaith and of pair mosaics are scored by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from pairlens._images import EncodedImage
from pairlens.client import Client
from pairlens.errors import ImageTooLargeError, ImageUndecodableError, MethodUnsupportedError
from pairlens.evaluation.controls import (
    DRAWN_CONTROLS,
    RANDOM_WEIGHTS,
    SINGLE_IMAGE_ROLLOUT,
    control_rows,
)
from pairlens.evaluation.grid_maps import ControlDrawer, GridMap
from pairlens.evaluation.protocol import JSON, UnusableFileError
from pairlens.evaluation.records import Row
from pairlens.evaluation.rows import MethodRow
from pairlens.evaluation.served import ROLLOUT, served_settings
from pairlens.models import MethodKind, ModelInfo
from pairlens.pairs import PairFailure, PairMatch

QUERY = "query"
_BROKEN = ImageUndecodableError, ImageTooLargeError


def partner_field(place: int) -> str:
    """The field of `Client.pair_similarity` that holds a partner."""
    return f"candidates[{place}]"


@contextmanager
def _of(field: str) -> Iterator[None]:
    """Let errors of a call with one picture name it as a call with all would."""
    try:
        yield
    except _BROKEN as error:
        error.field = field
        raise


@contextmanager
def naming(query: str, partners: Sequence[str]) -> Iterator[None]:
    """Turn errors of a picture, which name a field, into those of its file.

    Args:
        query: Path of the picture of fields that name no partner.
        partners: Paths of the others. The first one is the target of scores, too.

    Raises:
        UnusableFileError: In place of the picture's error.
    """
    try:
        yield
    except _BROKEN as error:
        path = query
        if error.field.startswith("target"):
            path = partners[0]
        for place, partner in enumerate(partners):
            if error.field.startswith(partner_field(place)):
                path = partner
        raise UnusableFileError(path, error.message) from error


@dataclass(frozen=True, eq=False)
class PairMaps:
    """What a row makes of a query and one partner.

    Attributes:
        query, partner: Of either picture.
        completeness_error: |sum of the query's cells + bias share + prefix share - cosine|;
            None where the map is no share of the cosine (controls).
    """

    query: GridMap
    partner: GridMap
    completeness_error: float | None = None


class PairMapMaker:
    """Makes the maps of every row: pair methods, then controls.

    Attributes:
        rows: Of the table.
    """

    def __init__(
        self,
        client: Client,
        model: ModelInfo,
        methods: Sequence[MethodRow],
        *,
        seed: int,
        timeout: float | None,
    ) -> None:
        """Take what maps are made with.

        Args:
            client: Connected to the server that holds the model.
            model: What is evaluated.
            methods: Pair methods.
            seed: Of the random control.
            timeout: Seconds for each call; None for the client's.
        """
        self.rows: tuple[Row, ...] = (
            *(method.row for method in methods),
            *control_rows(model, MethodKind.PAIR),
        )
        self._client, self._model, self._timeout = client, model, timeout
        self._methods = {method.row.name: method for method in methods}
        self._drawer = ControlDrawer(client, model, seed=seed, timeout=timeout)

    def settings(self) -> dict[str, JSON]:
        """What changes the maps."""
        return {
            "rows": [method.settings() for method in self._methods.values()],
            **served_settings(self._client, self._model, MethodKind.PAIR, timeout=self._timeout),
        }

    def maps(
        self, row: str, case: str, query: EncodedImage, partners: Sequence[EncodedImage]
    ) -> tuple[PairMaps, ...]:
        """The maps of a query with each partner.

        A row that ignores its partner gives the same map of the query each time.

        Args:
            row: Name of a row without a refusal.
            case: Seeds the random control.
            query: The picture to explain.
            partners: What it is similar to.

        Raises:
            PairlensError: A call failed, or a partner cannot be used.
        """
        if row in self._methods:
            method = self._methods[row].method
            matches = self._matches(query, partners, method.name, dict(method.arguments))
            return tuple(_shares(match) for match in matches)
        if row == RANDOM_WEIGHTS:
            matches = self._matches(query, partners, model=self._model.random_twin)
            return tuple(
                PairMaps(GridMap.of(match.query), GridMap.of(match.candidate)) for match in matches
            )
        if row == SINGLE_IMAGE_ROLLOUT:
            query_map = self._rollout(query, QUERY)
            others = [
                self._rollout(partner, partner_field(place))
                for place, partner in enumerate(partners)
            ]
        elif row in DRAWN_CONTROLS:
            query_map = self.drawn(row, query, case)
            others = [
                self.drawn(row, partner, case, place) for place, partner in enumerate(partners)
            ]
        else:
            raise MethodUnsupportedError(f"no row {row!r}")
        return tuple(PairMaps(query_map, other) for other in others)

    def drawn(
        self, name: str, image: EncodedImage, case: str, partner: int | None = None
    ) -> GridMap:
        """One of `DRAWN_CONTROLS` for the query of a case, or for the partner of that place."""
        role = QUERY if partner is None else f"partner {partner}"
        with _of(QUERY if partner is None else partner_field(partner)):
            return self._drawer.draw(name, image, f"{case}\0{role}")

    def _matches(
        self,
        query: EncodedImage,
        partners: Sequence[EncodedImage],
        method: str | None = None,
        parameters: dict[str, object] | None = None,
        *,
        model: str = "",
    ) -> list[PairMatch]:
        results = self._client.pair_similarity(
            query,
            partners,
            model=model or self._model.name,
            method=method,
            timeout=self._timeout,
            **(parameters or {}),  # type: ignore[arg-type]
        )
        matches = []
        for place, result in enumerate(results):
            if isinstance(result, PairFailure):
                with _of(partner_field(place)):
                    raise result.error
            matches.append(result)
        return matches

    def _rollout(self, picture: EncodedImage, field: str) -> GridMap:
        with _of(field):
            return GridMap.of(
                self._client.explain(
                    picture, model=self._model.name, method=ROLLOUT, timeout=self._timeout
                )
            )


def _shares(match: PairMatch) -> PairMaps:
    side = match.query
    error = abs(side.sum + side.bias_share + side.prefix_share - match.similarity)
    return PairMaps(GridMap.of(side), GridMap.of(match.candidate), error)
