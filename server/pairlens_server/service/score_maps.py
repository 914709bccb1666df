"""The maps that a call of ScoreSaliency scores, brought onto the model's input."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from pairlens.rendering import Box, GridGeometry
from pairlens_server.errors import InvalidParameterError
from pairlens_server.fidelity import placing
from pairlens_server.fidelity.copies import MapOnInput, Ranking
from pairlens_server.fidelity.placing import Enlargement, ErasureUnit, Extent
from pairlens_server.models.loaded import LoadedModel
from pairlens_server.recording.facts import ModelFacts
from pairlens_server.service.commands import Float32Array
from pairlens_server.service.pictures import AdmittedPicture
from pairlens_server.service.score_commands import GivenHeatmap, ScoredMap


@dataclass(frozen=True, eq=False)
class PlacedMap:
    """A map and what it lies on.

    Attributes:
        values: float32 [rows, columns], finite: the cells of `geometry`.
        geometry: Where they lie on the picture; of what the model sees alone.
        on_input: float32 [H, W], the map on the model's input.
        cells: Number of cells that can be erased at once; 0 for a map of the picture's pixels.
    """

    values: Float32Array
    geometry: GridGeometry
    on_input: Tensor
    cells: int

    def for_copies(self, rankings: Iterable[Ranking], model: LoadedModel) -> MapOnInput:
        """Rank its pixels or cells as copies need them."""
        height, width = self.on_input.shape
        ranks: dict[Ranking, Tensor] = {}
        for ranking in rankings:
            flipped = ranking.flipped_ties
            if ranking.unit is ErasureUnit.PIXELS:
                found = placing.ranks(self.on_input, flipped_ties=flipped)
            else:
                cells = placing.ranks(torch.from_numpy(self.values), flipped_ties=flipped)
                found = placing.cell_ranks_on_input(cells, height, width, model.layout)
            ranks[ranking] = found.to(torch.int32)
        return MapOnInput(ranks, placing.unit_mask(self.on_input))


def place_method_map(found: ScoredMap, model: LoadedModel, enlargement: Enlargement) -> PlacedMap:
    """Place a map that a method gave."""
    return _place_grid(found.values, found.geometry, model, enlargement)


def place_given_map(
    given: GivenHeatmap,
    picture: AdmittedPicture,
    model: LoadedModel,
    facts: ModelFacts,
    enlargement: Enlargement,
    field: str,
) -> PlacedMap:
    """Place a map from the caller.

    Args:
        given: The map.
        picture: Which it is of.
        model: Whose input it is brought to.
        facts: Of the model.
        enlargement: How the cells of a grid become pixels.
        field: Path of the map in the request, for errors.

    Raises:
        InvalidParameterError: It has a shape of nothing here, or values that are not finite
            where the model sees.
    """
    extent = given.extent or _by_shape(given.values, picture, model, facts, field)
    values, geometry = given.values, picture.geometry
    rows, columns = values.shape
    height, width = model.preprocessing.height, model.preprocessing.width
    if extent is Extent.PICTURE:
        return _place_picture(values, geometry, model, field)
    if extent is Extent.GRID:
        if rows > height or columns > width:
            raise _wrong_shape(values, f"at most the input's {height} x {width}", field)
        _check_finite(values, field)
        placed = replace(geometry, rows=rows, columns=columns)
        return _place_grid(values, placed, model, enlargement)
    if (rows, columns) != (height, width):
        raise _wrong_shape(values, f"the input's {height} x {width}", field)
    layout = model.layout
    seen = values[: height - layout.unseen_bottom, : width - layout.unseen_right]
    _check_finite(seen, field)
    on_input = torch.full((height, width), float(seen.min()))
    on_input[: seen.shape[0], : seen.shape[1]] = torch.from_numpy(np.ascontiguousarray(seen))
    placed = replace(geometry, rows=seen.shape[0], columns=seen.shape[1])
    return PlacedMap(np.ascontiguousarray(seen), placed, on_input, seen.size)


def _by_shape(
    values: Float32Array,
    picture: AdmittedPicture,
    model: LoadedModel,
    facts: ModelFacts,
    field: str,
) -> Extent:
    shape = values.shape
    layout, settings = model.layout, model.preprocessing
    grids = {(layout.rows, layout.columns)}
    grids |= {(grid.rows, grid.columns) for grid in facts.layers.values()}
    picture_shape = picture.geometry.image_height, picture.geometry.image_width
    if shape in grids:
        return Extent.GRID
    if shape == picture_shape:
        return Extent.PICTURE
    if shape == (settings.height, settings.width):
        return Extent.INPUT
    accepted = (
        f"the model's grid {layout.rows} x {layout.columns}, the picture's "
        f"{picture_shape[0]} x {picture_shape[1]} or the input's "
        f"{settings.height} x {settings.width}; a grid of another size needs extent GRID"
    )
    raise _wrong_shape(values, accepted, field)


def _place_grid(
    values: Float32Array, geometry: GridGeometry, model: LoadedModel, enlargement: Enlargement
) -> PlacedMap:
    settings = model.preprocessing
    on_input = placing.grid_to_input(
        torch.from_numpy(values), settings.height, settings.width, model.layout, enlargement
    )
    return PlacedMap(values, geometry, on_input, values.size)


def _place_picture(
    values: Float32Array, geometry: GridGeometry, model: LoadedModel, field: str
) -> PlacedMap:
    height, width = geometry.image_height, geometry.image_width
    if values.shape != (height, width):
        raise _wrong_shape(values, f"the picture's {height} x {width}", field)
    down, across = placing.seen_part(geometry)
    seen = np.ascontiguousarray(values[down, across])
    _check_finite(seen, field)
    on_input = placing.picture_to_input(
        values, geometry, model.preprocessing.height, model.preprocessing.width, model.layout
    )
    box = Box(left=across.start, top=down.start, right=across.stop, bottom=down.stop)
    rows, columns = seen.shape
    placed = GridGeometry(rows, columns, height, width, box)
    return PlacedMap(seen, placed, on_input, cells=0)


def _check_finite(values: Float32Array, field: str) -> None:
    if values.size and not np.isfinite(values).all():
        row, column = np.argwhere(~np.isfinite(values))[0]
        raise InvalidParameterError(
            f"{field} holds a value that is not finite, {values[row, column]}, "
            f"at row {row}, column {column} of what the model sees",
            field=f"{field}.values",
        )


def _wrong_shape(values: Float32Array, accepted: str, field: str) -> InvalidParameterError:
    rows, columns = values.shape
    return InvalidParameterError(
        f"{field} of shape {rows} x {columns} does not fit: {accepted}", field=f"{field}.values"
    )
