"""The protocol "images": is the map of one picture faithful to the model's class?

Every method explains every picture, and `Client.score_saliency` scores its map: average
drop and increase, deletion and insertion, and where boxes are known the localisation games.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from typing import Literal, TypeAlias

from pairlens._images import EncodedImage
from pairlens.client import Client
from pairlens.errors import InvalidParameterError
from pairlens.evaluation.controls import (
    DRAWN_CONTROLS,
    RANDOM_WEIGHTS,
    SINGLE_IMAGE_ROLLOUT,
    control_rows,
)
from pairlens.evaluation.dataset import Dataset, LabelledImage, class_finder
from pairlens.evaluation.grid_maps import ControlDrawer, GridMap
from pairlens.evaluation.image_metrics import (
    CLEAN_MEASURE,
    MetricsInput,
    headline,
    image_record,
    metric_curves,
    read_metrics,
)
from pairlens.evaluation.protocol import JSON
from pairlens.evaluation.records import Record, Row, SkippedFile
from pairlens.evaluation.rows import MethodRow, text
from pairlens.evaluation.served import predicted_class, served_settings
from pairlens.models import MethodKind, ModelInfo

ClassTarget: TypeAlias = Literal["predicted", "label"]
ENLARGEMENTS = ("nearest", "bilinear", "bilinear_aligned")
_REFERENCE = "reference"


@dataclass(frozen=True)
class ImageOptions:
    """Settings of the protocol.

    Attributes:
        metrics: Names, texts like "deletion(steps=32)", or `Metric`s. None: average drop
            and increase, deletion and insertion, and the localisation games where the data
            set has boxes.
        profile: "strict" or "reference", for every metric that takes one and was not given
            one; None for the server's default.
        target: Which class is explained and scored: the one that the model predicts, or the
            picture's own label, which the model must know then. None: the label under the
            profile "reference", as the thesis has it, else the predicted one.
        enlargement: How cells become pixels, of `ENLARGEMENTS`. None: "bilinear"; under the
            profile "reference" "bilinear_aligned" for methods without a target, which are
            attention maps there.
        seed: Of the random control.
        timeout: Seconds for each call; None for the client's.

    Raises:
        InvalidParameterError: An unknown target or enlargement.
    """

    metrics: MetricsInput = None
    profile: str | None = None
    target: ClassTarget | None = None
    enlargement: str | None = None
    seed: int = 0
    timeout: float | None = None

    def __post_init__(self) -> None:
        if self.target not in (None, "predicted", "label"):
            raise InvalidParameterError(
                f"target is predicted or label, not {self.target!r}", field="target"
            )
        if self.enlargement not in (None, *ENLARGEMENTS):
            raise InvalidParameterError(
                f"enlargement is of {', '.join(ENLARGEMENTS)}; not {self.enlargement!r}",
                field="enlargement",
            )

    @property
    def scored_class(self) -> ClassTarget:
        """The target, resolved."""
        return self.target or ("label" if self.profile == _REFERENCE else "predicted")

    def enlarged(self, *, takes_target: bool) -> str:
        """The enlargement, resolved for maps of a method that takes a target or takes none."""
        aligned = self.profile == _REFERENCE and not takes_target
        return self.enlargement or ("bilinear_aligned" if aligned else "bilinear")


class SingleImages:
    """The protocol "images"; see `Protocol` for the interface. A case is a picture's path."""

    name = "images"
    title = "Single pictures: are the maps faithful to the class?"

    def __init__(
        self,
        client: Client,
        model: ModelInfo,
        dataset: Dataset,
        methods: Sequence[MethodRow],
        options: ImageOptions | None = None,
    ) -> None:
        """Take what is evaluated; nothing is sent before `run`.

        Args:
            client: Connected to the server that holds the model.
            model: What is evaluated.
            dataset: Its pictures.
            methods: Explanation methods.
            options: None for the defaults.

        Raises:
            InvalidParameterError: A model without classes, an unknown metric or profile, or
                labels of which the model knows none.
        """
        self._options = options or ImageOptions()
        self._client, self._model, self._dataset = client, model, dataset
        if not model.classes:
            raise InvalidParameterError(
                f"{model.name} has no classes to be faithful to; evaluate pairs of pictures",
                field="model",
            )
        self._methods = {method.row.name: method for method in methods}
        self._metrics = read_metrics(self._options.metrics, self._options.profile, model, dataset)
        self._classes, unknown = _classes(self._options, model, dataset)
        self._skipped = (*dataset.skipped, *unknown)
        self.root = dataset.root
        self.rows = (*map(_row, methods), *_controls(model))
        self.measures = (*(metric.measure for metric in self._metrics), CLEAN_MEASURE)
        self.curves = metric_curves(self._metrics)
        self.headline = headline(self._metrics)
        self._drawer = ControlDrawer(
            client, model, seed=self._options.seed, timeout=self._options.timeout
        )

    def settings(self) -> Mapping[str, JSON]:
        """See `Protocol`."""
        model, options = self._model, self._options
        defaults = {info.name: text(info.defaults) for info in model.metrics}
        return {
            "model": model.name,
            "fingerprint": model.fingerprint,
            "target": options.scored_class,
            "enlargement": options.enlarged(takes_target=True),
            "enlargement_without_target": options.enlarged(takes_target=False),
            "metrics": [text(metric.metric) for metric in self._metrics],
            "metric_defaults": {
                metric.metric.name: defaults.get(metric.metric.name) for metric in self._metrics
            },
            "methods": {name: row.settings() for name, row in self._methods.items()},
            "seed": options.seed,
            **served_settings(self._client, model, MethodKind.EXPLANATION, timeout=options.timeout),
        }

    def cases(self) -> Sequence[str]:
        """Paths of the pictures, classes in turn."""
        return [image.path for image in self._dataset.images if image.path in self._classes]

    def content(self, case: str) -> str:
        """See `Protocol`: a picture is scored by itself."""
        image = self._dataset.by_path[case]
        parts = (image.digest, image.label, self._classes[case], [*map(astuple, image.boxes)])
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]

    def skipped(self) -> tuple[SkippedFile, ...]:
        """Files that are no picture, or whose label the model does not know."""
        return self._skipped

    def run(self, row: str, case: str) -> Record:
        """See `Protocol`."""
        image = self._dataset.by_path[case]
        asked = [metric for metric in self._metrics if image.boxes or not metric.needs_region]
        if not asked:
            return image_record(row, image, self._metrics, [], None, None)
        encoded = self._dataset.encoded(case)
        target = self._classes[case]
        given = None if row in self._methods else self._control(row, image, encoded)
        scores = self._client.score_saliency(
            encoded,
            model=self._model.name,
            method=self._methods[row].method if given is None else None,
            heatmap=None if given is None else given.values,
            extent=None if given is None else "grid",
            target=target,
            metrics=[metric.metric for metric in asked],
            enlargement=self._options.enlarged(takes_target=self._takes_target(row)),
            boxes=image.boxes if any(metric.needs_region for metric in asked) else (),
            timeout=self._options.timeout,
        )
        return image_record(row, image, self._metrics, asked, scores, given)

    def _takes_target(self, row: str) -> bool:
        if row in self._methods:
            return self._methods[row].info.takes_target
        default = self._model.default_explanation_method
        if row != RANDOM_WEIGHTS or default is None:
            return True
        return {info.name: info for info in self._model.methods}[default.name].takes_target

    def _control(self, row: str, image: LabelledImage, encoded: EncodedImage) -> GridMap:
        """The map of a control."""
        if row in DRAWN_CONTROLS:
            return self._drawer.draw(row, encoded, image.path)
        assert row == RANDOM_WEIGHTS, row
        method = self._model.default_explanation_method
        assert method is not None  # the row is refused without
        target = None
        if {info.name: info for info in self._model.methods}[method.name].takes_class:
            # The twin predicts another class than the one by which its map is scored.
            known = self._classes[image.path]
            target = known
            if known is None:
                timeout = self._options.timeout
                target = predicted_class(self._client, self._model, encoded, timeout=timeout)
        explanation = self._client.explain(
            encoded,
            model=self._model.random_twin,
            method=method.name,
            target=target,
            timeout=self._options.timeout,
            **method.parameters,  # type: ignore[arg-type]
        )
        return GridMap.of(explanation)


def _classes(
    options: ImageOptions, model: ModelInfo, dataset: Dataset
) -> tuple[dict[str, int | None], list[SkippedFile]]:
    """Class of each picture that is evaluated (None: the predicted one); and the others."""
    if options.scored_class == "predicted":
        return {image.path: None for image in dataset.images}, []
    find = class_finder(model)
    found = {image.path: find(image) for image in dataset.images}
    unknown = [
        SkippedFile(image.path, f"{model.name} has no class {image.label!r}")
        for image in dataset.images
        if found[image.path] is None
    ]
    if len(unknown) == len(dataset):
        why = "" if options.target else ", which the profile reference scores by"
        raise InvalidParameterError(
            f"{model.name} knows none of the labels{why}, for example "
            f"{dataset.images[0].label!r}; explain the predicted class (target predicted)",
            field="target",
        )
    return {path: index for path, index in found.items() if index is not None}, unknown


def _row(method: MethodRow) -> Row:
    """The method's row; refused where the map explains no class."""
    info = method.info
    if info.takes_similarity and not info.takes_class and not method.row.refusal:
        return replace(method.row, refusal="it explains a similarity and no class")
    return method.row


def _controls(model: ModelInfo) -> tuple[Row, ...]:
    # Rollout of a single picture is a method here, and no control.
    rows = control_rows(model, MethodKind.EXPLANATION)
    return tuple(row for row in rows if row.name != SINGLE_IMAGE_ROLLOUT)
