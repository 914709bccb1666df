"""PairFaith: are maps of what makes two pictures similar faithful to the similarity?

Each query meets p, the most similar picture of its class; p2, the second most similar; and
n, the most similar picture of another class. Cells of the query, of p, or of both by the same
share are erased, and what is left of cos(q, p) is read. Both ends of a scale belong to the
pair, not to the map. Most relevant first should lose the similarity at once (deletion), least
relevant first should keep it (which is insertion read from its end: putting back the most
relevant f leaves the least relevant 1 - f erased, so it takes no passes of its own).

How well the sum of a map's cells predicts the similarity under random masks (R^2 of additive
predictions) is not measured: it takes passes of its own, and few methods claim it.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from pairlens.client import Client
from pairlens.errors import InvalidParameterError
from pairlens.evaluation import pair_scores
from pairlens.evaluation.dataset import Dataset
from pairlens.evaluation.embeddings import DataEmbeddings, Progress, embed_data
from pairlens.evaluation.pair_maps import PairMapMaker
from pairlens.evaluation.pair_measures import HEADLINE, PairOptions, pair_curves, pair_measures
from pairlens.evaluation.pair_work import PairData, PairWork
from pairlens.evaluation.pairs import eligible_queries, pair_case
from pairlens.evaluation.protocol import JSON, CurveInfo
from pairlens.evaluation.records import Measure, Record, Row, SkippedFile
from pairlens.evaluation.rows import MethodRow
from pairlens.evaluation.sampling import round_robin
from pairlens.models import ModelInfo


class PairFaith:
    """The protocol "pairs": pair methods and controls over queries of a data set.

    See `pair_measures` for what is measured, and `Protocol` for the interface.
    """

    name = "pairs"
    title = "PairFaith: maps of what makes pictures of one class similar"
    headline = HEADLINE

    def __init__(
        self,
        client: Client,
        model: ModelInfo,
        data: Dataset,
        methods: Sequence[MethodRow],
        directory: Path,
        options: PairOptions | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Take what is evaluated; nothing is read or sent before `settings` or `cases`.

        Args:
            client: Connected to the server that holds the model.
            model: What is evaluated.
            data: Labelled pictures.
            methods: Pair methods.
            directory: Of the run: keeps the embeddings.
            options: None for the defaults.
            progress: Told how far the embedding of all pictures is.

        Raises:
            InvalidParameterError: No picture has two others of its class, and one of
                another, to be compared with.
        """
        self._options = options or PairOptions()
        self._client, self._model, self._data = client, model, data
        self._directory, self._progress = directory, progress
        self._maker = PairMapMaker(
            client,
            model,
            methods,
            seed=self._options.seed,
            timeout=self._options.timeout,
        )
        self.rows: tuple[Row, ...] = self._maker.rows
        self.measures: tuple[Measure, ...] = pair_measures(self._options.substrates)
        self.curves: tuple[CurveInfo, ...] = pair_curves(self._options.substrates)
        self.root = data.root
        self._labels = [image.label for image in data.images]
        self._digests = [image.digest for image in data.images]
        if not eligible_queries(self._labels, self._digests, range(len(data))):
            raise InvalidParameterError(
                f"no picture in {data.root} has two others of its class and one of another",
                field="dataset",
            )
        self._lock = threading.RLock()
        self._embeddings: DataEmbeddings | None = None
        self._data_of_cases: PairData | None = None
        self._queries: dict[str, int] = {}

    def settings(self) -> Mapping[str, JSON]:
        """See `Protocol`."""
        options, model = self._options, self._model
        return {
            "model": model.name,
            "fingerprint": model.fingerprint,
            "data": self._data.digest,
            "seed": options.seed,
            "fractions": options.fractions,
            "substrates": options.substrates,
            "minimum_span": pair_scores.MINIMUM_SPAN,
            **self._maker.settings(),
        }

    def cases(self) -> Sequence[str]:
        """Paths of the queries; the first call embeds the whole data set."""
        self._prepared()
        return tuple(self._queries)

    def skipped(self) -> tuple[SkippedFile, ...]:
        """Files that are no picture, or have no embedding."""
        return (*self._data.skipped, *self._embedded().skipped)

    def content(self, case: str) -> str:
        """See `Protocol`; partners are of the whole data set."""
        return ""

    def run(self, row: str, case: str) -> Record:
        """See `Protocol`."""
        shared = self._prepared()
        chosen = pair_case(
            self._queries[case],
            shared.vectors,
            self._labels,
            self._digests,
            self._embedded().usable,
        )
        return PairWork(shared, row, case, chosen).record()

    def _prepared(self) -> PairData:
        with self._lock:
            if self._data_of_cases is None:
                embedded = self._embedded()
                eligible = eligible_queries(self._labels, self._digests, embedded.usable)
                order = round_robin(self._labels, eligible, self._options.seed)
                self._queries = {self._data.images[index].path: index for index in order}
                self._data_of_cases = PairData(
                    self._client,
                    self._model.name,
                    self._maker,
                    self._options,
                    self._data,
                    embedded.vectors,
                )
            return self._data_of_cases

    def _embedded(self) -> DataEmbeddings:
        with self._lock:
            if self._embeddings is None:
                self._embeddings = embed_data(
                    self._client,
                    self._model,
                    self._data,
                    self._directory,
                    timeout=self._options.timeout,
                    progress=self._progress,
                )
            return self._embeddings
