"""The figures of `docs/metrics.md`: what a curve erases, what it finds, and a pair's curves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
import torch
from methods.sheet import MAX_WIDTH, Cell, drawn, enlarged, fitted, sheet
from PIL import Image

from pairlens import Client, PlacedMap, SimilarTo
from pairlens._plot import Curve, line_plot
from pairlens.curves import BLUE, GREEN, PURPLE, VERMILLION
from pairlens.evaluation.controls import RANDOM, control_map
from pairlens.metrics import Metric, SaliencyScores
from pairlens_server.demo.pairs import MODELS_FILE, PICTURES
from pairlens_server.fidelity.placing import Enlargement, grid_to_input, ranks
from pairlens_server.fidelity.substrates import Filling, Substrate
from pairlens_server.images.admission import ImageLimits, decode
from pairlens_server.images.preprocess import input_pixels
from pairlens_server.models.config import load_model_configs
from pairlens_server.models.loaded import LoadedModel
from pairlens_server.models.loading import load_model
from pairlens_server.recording.recorder import Recorder

MODEL, METHOD, PAIR_METHOD = "demo-resnet", "grad_cam", "pooled_decomposition"
PHOTO, PARTNER = PICTURES / "lamp-2.jpg", PICTURES / "lamp-1.jpg"
STEPS = 16
SHOWN = (2, 4, 8, 12, 16)  # of the steps
_HEIGHT, _SIZE = 165, (600, 420)
_GREY = (90, 90, 96)
_LOOKS = {
    Substrate.MEAN: (BLUE, "circle"),
    Substrate.BLACK: (_GREY, "square"),
    Substrate.BLUR: (VERMILLION, "triangle"),
    Substrate.NOISE: (PURPLE, "diamond"),
    Substrate.NOISY_LINEAR: (GREEN, "circle"),
}


class Scored:
    """Asks a server for what the figures show, each thing once."""

    def __init__(self, client: Client):
        self._client = client

    @cached_property
    def map(self) -> SaliencyScores:
        """The method's map, by deletion and insertion with every substrate."""
        return self._scored(None)

    @cached_property
    def random(self) -> SaliencyScores:
        """The same of noise."""
        placed = self.placed
        rows, columns = placed.heatmap.shape
        picture = placed.image.picture()
        noise = control_map(RANDOM, picture, placed.geometry.region, rows, columns, "metrics")
        return self._scored(noise)

    @property
    def placed(self) -> PlacedMap:
        """The method's map."""
        assert self.map.heatmap is not None  # a method made it
        return self.map.heatmap

    @cached_property
    def pair(self) -> SaliencyScores:
        """A pair's maps by deletion and insertion of either side and of both."""
        return self._client.score_saliency(
            PHOTO,
            model=MODEL,
            pair_method=PAIR_METHOD,
            target=SimilarTo(PARTNER),
            metrics=[Metric.of(name, steps=STEPS, substrate="mean") for name in _CURVES],
            sides=("image", "partner", "both"),
        )

    def _scored(self, heatmap: np.ndarray | None) -> SaliencyScores:
        return self._client.score_saliency(
            PHOTO,
            model=MODEL,
            method=METHOD if heatmap is None else None,
            heatmap=heatmap,
            extent=None if heatmap is None else "grid",
            metrics=[
                Metric.of(name, steps=STEPS, substrate=substrate.value)
                for name in _CURVES
                for substrate in Substrate
            ],
        )


_CURVES = ("deletion", "insertion")


def copies(scored: Scored) -> Image.Image:
    """The photograph, its map, and copies along the deletion curves with what they score."""
    model, placed = _model(), scored.placed
    pixels, order = _on_input(model, placed)
    black = Recorder(model).facts.black
    clean = scored.map.scores[0].clean_score
    photo = enlarged(placed.image.picture(), _HEIGHT)
    blank = Cell(Image.new("RGB", photo.size, "white"), ())
    left = [
        Cell(photo, ("photograph", f"p = {clean:.2f}")),
        Cell(drawn(placed, _HEIGHT), (METHOD, f"class {_label(scored)}")),
    ]
    rows = [[cell] for cell in (*left, *[blank] * (len(SHOWN) - len(left)))]
    for index, substrate in enumerate(Substrate):
        curve = scored.map.scores[index].curve
        assert curve is not None  # of every deletion
        hidden = [order < step * order.numel() // STEPS for step in SHOWN]
        made = Filling(substrate, black).fill(pixels, torch.stack(hidden))
        for row, copy, step in zip(rows, made, SHOWN, strict=True):
            score = f"{100 * step / STEPS:g} %: p = {curve.scores[step]:.2f}"
            row.append(Cell(_picture(copy, model, photo.size), (substrate.value, score)))
    return sheet(rows)


def curves(scored: Scored) -> Image.Image:
    """Deletion and insertion by substrate, of the map above and of noise below."""
    answers = ((scored.map, METHOD), (scored.random, "random map"))
    scores = [score for answer, _ in answers for score in answer.scores]
    top = 1.1 * max(float(score.curve.scores.max()) for score in scores if score.curve is not None)
    plots = [[_plot(answer, name, what, top) for name in _CURVES] for answer, what in answers]
    width, height = _SIZE
    page = Image.new("RGB", (2 * width, 2 * height), "white")
    for row, pair in enumerate(plots):
        for column, plot in enumerate(pair):
            page.paste(plot, (column * width, row * height))
    return fitted(page)


def pair(scored: Scored) -> Image.Image:
    """Deletion and insertion of a pair, by side, as the SDK draws them."""
    return fitted(scored.pair.curves_figure(size=(MAX_WIDTH // 2, 420)))


FIGURES: dict[str, Callable[[Scored], Image.Image]] = {
    "copies.jpg": copies,
    "curves.png": curves,
    "pair.png": pair,
}


def _plot(answer: SaliencyScores, name: str, what: str, top: float) -> Image.Image:
    held = [score for score in answer.scores if score.metric.name == name]
    lines: list[Curve] = []
    x: Sequence[float] = ()
    for score, substrate in zip(held, Substrate, strict=True):
        assert score.curve is not None  # asked for
        y = score.curve.scores.astype(np.float64)
        color, marker = _LOOKS[substrate]
        lines.append(Curve(f"{substrate.value}: {score.value:.3f}", color, marker, y, y, y))
        x = score.curve.fractions.tolist()
    verb = "erased" if name == "deletion" else "put back"
    return line_plot(
        x,
        lines,
        title=f"{name.capitalize()}, {what}: area, {held[0].better} is better",
        x_label=f"share of the picture {verb}",
        y_label="probability",
        y_range=(0.0, top),
        size=_SIZE,
    )


def _label(scored: Scored) -> str:
    assert scored.map.target is not None  # of a class
    return scored.map.target.label.split(",")[0]


def _model() -> LoadedModel:
    configs = {config.name: config for config in load_model_configs(MODELS_FILE)}
    return load_model(configs[MODEL])


def _on_input(model: LoadedModel, placed: PlacedMap) -> tuple[torch.Tensor, torch.Tensor]:
    """The model's input, [3, H, W], and the rank of each of its pixels, [H, W]."""
    pixels = input_pixels(decode(PHOTO.read_bytes(), ImageLimits(), "image"), model.preprocessing)
    height, width = pixels.shape[1:]
    values = torch.from_numpy(placed.heatmap.copy())
    enlarged_map = grid_to_input(values, height, width, model.layout, Enlargement.BILINEAR)
    return pixels, ranks(enlarged_map)


def _picture(copy: torch.Tensor, model: LoadedModel, size: tuple[int, int]) -> Image.Image:
    """A copy in colours, as large as the photograph is drawn: the model stretches pictures."""
    settings = model.preprocessing
    mean, std = (torch.tensor(v)[:, None, None] for v in (settings.mean, settings.std))
    colours = (copy * std + mean).clamp(0, 1).permute(1, 2, 0).numpy()
    picture = Image.fromarray((255 * colours).round().astype(np.uint8))
    return picture.resize(size, Image.Resampling.BICUBIC)
