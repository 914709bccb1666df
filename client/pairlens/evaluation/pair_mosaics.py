"""The protocol "pair mosaics": is what a mosaic shares with a picture found in its tile?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pairlens.client import Client
from pairlens.evaluation.dataset import Dataset
from pairlens.evaluation.mosaic_protocol import MosaicOptions, MosaicProtocol
from pairlens.evaluation.mosaics import Tile
from pairlens.evaluation.pair_maps import PairMapMaker, naming
from pairlens.evaluation.protocol import JSON
from pairlens.evaluation.records import Record
from pairlens.evaluation.rows import MethodRow
from pairlens.evaluation.sampling import generator
from pairlens.models import ModelInfo
from pairlens.targets import SimilarTo


class PairMosaics(MosaicProtocol):
    """Pair methods and controls over mosaics of which one tile is of the partner's class.

    The partner is another picture of that class than the tile, drawn at random, with other
    bytes.
    """

    name = "pair mosaics"
    title = "Pair mosaics: is what the partner shows found in the mosaic?"

    def __init__(
        self,
        client: Client,
        model: ModelInfo,
        dataset: Dataset,
        methods: Sequence[MethodRow],
        directory: Path,
        options: MosaicOptions | None = None,
    ) -> None:
        """Take what is evaluated; nothing is sent before the first `run`.

        Args:
            client: Connected to the server that holds the model.
            model: What is evaluated.
            dataset: Labelled pictures.
            methods: Pair methods.
            directory: Of the run: mosaics are written there.
            options: None for the defaults.
        """
        super().__init__(client, model, dataset, directory, options)
        self._maker = PairMapMaker(
            client, model, methods, seed=self._options.seed, timeout=self._options.timeout
        )
        self.rows = self._maker.rows

    def settings(self) -> Mapping[str, JSON]:
        """See `Protocol`."""
        return {**super().settings(), **self._maker.settings()}

    def run(self, row: str, case: str) -> Record:
        """See `Protocol`."""
        path, image = self._mosaic(case)
        partner = self._partner(case)
        other = self._dataset.encoded(partner)
        with naming(path, [partner]):
            (maps,) = self._maker.maps(row, case, image, [other])
            drawn = (
                maps.query.drawn(path, "query", made=True),
                maps.partner.drawn(partner, "partner"),
            )
            return self._record(row, case, image, maps.query.values, SimilarTo(other), drawn)

    def _tiles(self) -> Sequence[Tile]:
        return [Tile(image.path, (image.label,)) for image in self._dataset.images]

    def _may_be_right(self, tile: Tile) -> bool:
        return bool(self._partners(tile.path))

    def _partners(self, path: str) -> list[str]:
        image = self._dataset.by_path[path]
        same = self._dataset.by_label[image.label]
        return sorted(other.path for other in same if other.digest != image.digest)

    def _partner(self, case: str) -> str:
        partners = self._partners(case)
        return partners[int(generator(self._options.seed, "partner", case).integers(len(partners)))]
