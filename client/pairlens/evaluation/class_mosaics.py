"""The protocol "mosaics": is the class that is explained found in its tile?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from pairlens._images import EncodedImage
from pairlens.client import Client
from pairlens.errors import InvalidParameterError, MethodUnsupportedError
from pairlens.evaluation.controls import (
    DRAWN_CONTROLS,
    RANDOM_WEIGHTS,
    SINGLE_IMAGE_ROLLOUT,
    control_rows,
)
from pairlens.evaluation.dataset import Dataset, class_finder
from pairlens.evaluation.embeddings import Progress
from pairlens.evaluation.grid_maps import ControlDrawer, GridMap
from pairlens.evaluation.mosaic_protocol import MosaicOptions, MosaicProtocol
from pairlens.evaluation.mosaics import Tile
from pairlens.evaluation.predictions import predict_data
from pairlens.evaluation.protocol import JSON
from pairlens.evaluation.records import Record, Row, SkippedFile
from pairlens.evaluation.rows import MethodRow
from pairlens.evaluation.served import ROLLOUT, served_settings
from pairlens.models import MethodKind, ModelInfo


class ClassMosaics(MosaicProtocol):
    """Methods of `Client.explain` and controls over mosaics of pictures of four classes.

    The target is the class of the right tile: its label, where the model knows the labels
    of all pictures; else what the model predicts for the tile's photograph alone, and the
    other three are predicted as other classes.
    """

    name = "mosaics"
    title = "Mosaics: is the class found in its tile?"

    def __init__(
        self,
        client: Client,
        model: ModelInfo,
        dataset: Dataset,
        methods: Sequence[MethodRow],
        directory: Path,
        options: MosaicOptions | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Take what is evaluated; nothing is sent before `cases`.

        Args:
            client: Connected to the server that holds the model.
            model: What is evaluated.
            dataset: Pictures, with labels or without.
            methods: Explanation methods.
            directory: Of the run: mosaics and predictions are written there.
            options: None for the defaults.
            progress: Told how far the prediction of all pictures is.

        Raises:
            InvalidParameterError: The model has no classes.
        """
        if not model.classes:
            raise InvalidParameterError(f"{model.name} knows no classes", field="model")
        super().__init__(client, model, dataset, directory, options)
        self._progress = progress
        self._methods = {method.row.name: method for method in methods}
        alone = any(method.method.name == ROLLOUT for method in methods)
        self.rows = (
            *map(_row, methods),
            *(
                row
                for row in control_rows(model, MethodKind.EXPLANATION)
                # The control would be the method once more.
                if not (alone and row.name == SINGLE_IMAGE_ROLLOUT)
            ),
        )
        self._drawer = ControlDrawer(
            client, model, seed=self._options.seed, timeout=self._options.timeout
        )
        self._unusable: tuple[SkippedFile, ...] = ()
        find = class_finder(model)
        known = {image.path: find(image) for image in dataset.images}
        self._by_label = all(index is not None for index in known.values())
        self._classes: dict[str, int] = {
            path: index for path, index in known.items() if index is not None and self._by_label
        }

    def settings(self) -> Mapping[str, JSON]:
        """See `Protocol`."""
        return {
            **super().settings(),
            "target": "label" if self._by_label else "predicted",
            "rows": [method.settings() for method in self._methods.values()],
            **served_settings(
                self._client,
                self._model,
                MethodKind.EXPLANATION,
                timeout=self._options.timeout,
            ),
        }

    def skipped(self) -> tuple[SkippedFile, ...]:
        """Files that are no picture, or that the model can make nothing of."""
        self.cases()
        return (*super().skipped(), *self._unusable)

    def run(self, row: str, case: str) -> Record:
        """See `Protocol`."""
        path, image = self._mosaic(case)
        target = self._classes[case]
        found = self._map(row, case, image, target)
        drawn = (found.drawn(path, "", made=True),)
        return self._record(row, case, image, found.values, target, drawn)

    def _map(self, row: str, case: str, image: EncodedImage, target: int) -> GridMap:
        if row in self._methods:
            method = self._methods[row]
            return self._explained(image, target, method.method.name, method.method.parameters)
        if row == RANDOM_WEIGHTS:
            default = self._model.default_explanation_method
            assert default is not None  # the row is refused without it
            return self._explained(
                image, target, default.name, default.parameters, model=self._model.random_twin
            )
        if row == SINGLE_IMAGE_ROLLOUT:
            return self._explained(image, target, ROLLOUT, {})
        if row in DRAWN_CONTROLS:
            return self._drawer.draw(row, image, case)
        raise MethodUnsupportedError(f"no row {row!r}")

    def _explained(
        self,
        image: EncodedImage,
        target: int,
        method: str,
        parameters: Mapping[str, object],
        *,
        model: str = "",
    ) -> GridMap:
        takes_class = any(
            info.name == method and info.kind is MethodKind.EXPLANATION and info.takes_class
            for info in self._model.methods
        )
        return GridMap.of(
            self._client.explain(
                image,
                model=model or self._model.name,
                method=method,
                target=target if takes_class else None,
                timeout=self._options.timeout,
                **parameters,  # type: ignore[arg-type]
            )
        )

    def _tiles(self) -> Sequence[Tile]:
        if not self._by_label:
            self._classes, self._unusable = predict_data(
                self._client,
                self._model,
                self._dataset,
                self.directory,
                timeout=self._options.timeout,
                progress=self._progress,
            )
        tiles = []
        for image in self._dataset.images:
            if image.path in self._classes:
                shown = f"class {self._classes[image.path]}"
                tiles.append(Tile(image.path, (image.label, shown) if image.label else (shown,)))
        return tiles


def _row(method: MethodRow) -> Row:
    info = method.info
    if method.row.refusal or info.takes_class or not info.takes_similarity:
        return method.row
    return replace(method.row, refusal="it explains a similarity and takes no class")
