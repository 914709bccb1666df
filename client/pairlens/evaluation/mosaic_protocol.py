"""What the protocols "mosaics" and "pair mosaics" share: does a map lie on the right tile?"""

from __future__ import annotations

import hashlib
import threading
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from pairlens._images import EncodedImage, encode
from pairlens.client import Client
from pairlens.errors import ImageUndecodableError, InvalidParameterError
from pairlens.evaluation.dataset import Dataset
from pairlens.evaluation.mosaics import (
    TILES,
    Mosaic,
    Tile,
    choose_mosaic,
    compose,
    tile_box,
    tile_size,
    write_png,
)
from pairlens.evaluation.protocol import JSON, CurveInfo, UnusableFileError
from pairlens.evaluation.records import DrawnMap, Measure, Record, Row, SkippedFile
from pairlens.evaluation.sampling import round_robin
from pairlens.models import ModelInfo
from pairlens.rendering import FloatArray
from pairlens.targets import SimilarTo

FOLDER = "mosaics"
ENERGY, POINTING = "energy", "pointing"
_METRICS = {ENERGY: "energy_pointing_game", POINTING: "pointing_game"}

MEASURES = (
    Measure(
        ENERGY,
        "Energy in the tile",
        "Share of the map's positive values that lie on the right tile, in [0, 1].",
        higher_is_better=True,
        chance=1 / TILES,
    ),
    Measure(
        POINTING,
        "Pointing game",
        "1 where the middle of the map's largest cell lies on the right tile, else 0; equally "
        "large cells by their mean.",
        higher_is_better=True,
        chance=1 / TILES,
    ),
)


@dataclass(frozen=True)
class MosaicOptions:
    """Settings of both protocols.

    Attributes:
        seed: Of every choice, and of the random control.
        timeout: Seconds for each call; None for the client's.
    """

    seed: int = 0
    timeout: float | None = None


class MosaicProtocol(ABC):
    """See `Protocol` for the interface.

    A case is the right tile of a mosaic.

    Attributes:
        directory: Of the run; mosaics are written to `mosaics/` in it.
    """

    name: str
    title: str
    rows: tuple[Row, ...]
    headline = ENERGY
    measures = MEASURES
    curves: tuple[CurveInfo, ...] = ()

    def __init__(
        self,
        client: Client,
        model: ModelInfo,
        dataset: Dataset,
        directory: Path,
        options: MosaicOptions | None,
    ) -> None:
        self._client, self._model, self._dataset = client, model, dataset
        self._options = options or MosaicOptions()
        self.root, self.directory = dataset.root, directory
        self._lock = threading.RLock()
        self._mosaics: dict[str, Mosaic] | None = None

    def settings(self) -> Mapping[str, JSON]:
        """See `Protocol`."""
        return {
            "model": self._model.name,
            "fingerprint": self._model.fingerprint,
            "data": self._dataset.digest,
            "seed": self._options.seed,
        }

    def cases(self) -> Sequence[str]:
        """Paths of the right tiles."""
        return tuple(self._chosen())

    def skipped(self) -> tuple[SkippedFile, ...]:
        """See `Protocol`."""
        return self._dataset.skipped

    def content(self, case: str) -> str:
        """See `Protocol`; tiles are of the whole data set."""
        return ""

    @abstractmethod
    def run(self, row: str, case: str) -> Record:
        """See `Protocol`."""

    @abstractmethod
    def _tiles(self) -> Sequence[Tile]:
        """Pictures that may be tiles; those that may be the right one are `_may_be_right`."""

    def _may_be_right(self, tile: Tile) -> bool:
        """Whether a tile may be the one that maps should lie on."""
        return True

    def _chosen(self) -> dict[str, Mosaic]:
        with self._lock:
            if self._mosaics is None:
                self._mosaics = self._choose()
            return self._mosaics

    def _choose(self) -> dict[str, Mosaic]:
        tiles = sorted(self._tiles(), key=lambda tile: tile.path)
        others: defaultdict[str, list[Tile]] = defaultdict(list)
        for tile in tiles:
            others[tile.marks[0]].append(tile)
        right = [place for place, tile in enumerate(tiles) if self._may_be_right(tile)]
        order = round_robin([tile.marks[0] for tile in tiles], right, self._options.seed)
        mosaics: dict[str, Mosaic] = {}
        for place in order:
            mosaic = choose_mosaic(tiles[place], len(mosaics), others, self._options.seed)
            if mosaic is not None:
                mosaics[tiles[place].path] = mosaic
        if not mosaics:
            raise InvalidParameterError(
                f"no mosaic can be made of {self._dataset.root}: it takes pictures of "
                f"{TILES} classes, and pairs two of one class",
                field="dataset",
            )
        return mosaics

    def _mosaic(self, case: str) -> tuple[str, EncodedImage]:
        """Path in the run's directory, and the file: made once, for all rows and runs."""
        mosaic, size = self._chosen()[case], tile_size(self._model)
        paths = [tile.path for tile in mosaic.tiles]
        key = hashlib.sha256("\0".join([self._dataset.digest, *paths, str(size)]).encode())
        path = f"{FOLDER}/{key.hexdigest()[:16]}.png"
        file = self.directory / path
        if file.exists():
            return path, encode(file)
        return path, write_png(compose([*map(self._picture, paths)], *size), file)

    def _picture(self, path: str) -> Image.Image:
        try:
            return self._dataset.encoded(path).picture()
        except ImageUndecodableError as error:
            raise UnusableFileError(path, error.message) from error

    def _record(
        self,
        row: str,
        case: str,
        image: EncodedImage,
        values: FloatArray,
        target: int | SimilarTo,
        maps: tuple[DrawnMap, ...],
    ) -> Record:
        """Score a map of a mosaic."""
        mosaic = self._chosen()[case]
        scores = self._client.score_saliency(
            image,
            model=self._model.name,
            heatmap=values,
            extent="grid",
            target=target,
            metrics=list(_METRICS.values()),
            boxes=[tile_box(mosaic.place, *tile_size(self._model))],
            timeout=self._options.timeout,
        )
        found = {name: scores[metric] for name, metric in _METRICS.items()}
        return Record(
            row,
            case,
            mosaic.tiles[mosaic.place].marks[0],
            values={name: score.value for name, score in found.items()},
            maps=maps,
            notes={name: score.undefined for name, score in found.items() if score.undefined},
        )
