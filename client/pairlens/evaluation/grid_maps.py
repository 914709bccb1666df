"""Maps with their place on a picture, and the controls that are drawn without the model."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from pairlens._images import EncodedImage
from pairlens.client import Client
from pairlens.errors import MethodUnsupportedError
from pairlens.evaluation.controls import control_map
from pairlens.evaluation.records import DrawnMap
from pairlens.models import ModelInfo
from pairlens.pairs import PairFailure
from pairlens.placed import PlacedMap
from pairlens.rendering import Box, FloatArray


@dataclass(frozen=True, eq=False)
class GridMap:
    """A map of one picture.

    Attributes:
        values: float32 [rows, columns]
        region: The part of the picture that the grid divides evenly, in original pixels.
    """

    values: FloatArray
    region: Box

    @classmethod
    def of(cls, placed: PlacedMap) -> GridMap:
        """The map of an answer."""
        return cls(placed.heatmap, placed.geometry.region)

    def drawn(self, picture: str, role: str, *, made: bool = False) -> DrawnMap:
        """The map as records hold it.

        Args:
            picture: Path, as in `DrawnMap`.
            role: Of the picture in its case.
            made: See `DrawnMap`.
        """
        box = self.region
        region = (box.left, box.top, box.right, box.bottom)
        return DrawnMap(picture, role, self.values, region, made)


class ControlDrawer:
    """Draws controls on the part of each picture that the model sees."""

    def __init__(
        self, client: Client, model: ModelInfo, *, seed: int, timeout: float | None
    ) -> None:
        """Take what is needed.

        Args:
            client: Connected to the server that holds the model.
            model: Whose grid the maps have.
            seed: Of the random control.
            timeout: Seconds for each call; None for the client's.
        """
        self._client, self._model = client, model
        self._seed, self._timeout = seed, timeout
        self._regions: dict[tuple[int, int], Box] = {}
        self._lock = threading.Lock()

    def draw(self, name: str, image: EncodedImage, seed_text: str) -> GridMap:
        """One of `controls.DRAWN_CONTROLS`.

        Args:
            name: Which.
            image: The picture.
            seed_text: With the drawer's seed that of the random control.

        Raises:
            PairlensError: The model could not be asked what it sees of the picture.
        """
        picture = image.picture()
        region = self._region(image, picture.size)
        rows, columns = self._model.grid_rows, self._model.grid_columns
        seeds = f"{self._seed}\0{seed_text}"
        return GridMap(control_map(name, picture, region, rows, columns, seeds), region)

    def _region(self, image: EncodedImage, size: tuple[int, int]) -> Box:
        # It follows from the picture's size: asked once for each.
        with self._lock:
            if size in self._regions:
                return self._regions[size]
        region = self._seen(image)
        with self._lock:
            return self._regions.setdefault(size, region)

    def _seen(self, image: EncodedImage) -> Box:
        name = self._model.name
        if self._model.default_explanation_method is not None:
            found = self._client.explain(image, model=name, timeout=self._timeout)
            return found.geometry.region
        if self._model.default_pair_method is None:
            raise MethodUnsupportedError(f"{name} has no default method")
        (result,) = self._client.pair_similarity(image, image, model=name, timeout=self._timeout)
        if isinstance(result, PairFailure):
            raise result.error
        return result.query.geometry.region
