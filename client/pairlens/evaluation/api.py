"""Evaluations of a data set, each in one call."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypedDict

from pairlens._progress import StepsLine
from pairlens.client import Client
from pairlens.evaluation._listing import check_apart
from pairlens.evaluation.class_mosaics import ClassMosaics
from pairlens.evaluation.dataset import Dataset, read_dataset
from pairlens.evaluation.embeddings import Progress
from pairlens.evaluation.image_metrics import MetricsInput
from pairlens.evaluation.mosaic_protocol import MosaicOptions
from pairlens.evaluation.pair_measures import PairOptions
from pairlens.evaluation.pair_mosaics import PairMosaics
from pairlens.evaluation.pairfaith import PairFaith
from pairlens.evaluation.results import Evaluation
from pairlens.evaluation.rows import method_rows
from pairlens.evaluation.runner import run_protocol
from pairlens.evaluation.single_images import ClassTarget, ImageOptions, SingleImages
from pairlens.evaluation.statistics import Bootstrap
from pairlens.models import Method, MethodKind, ModelDetails

if TYPE_CHECKING:
    from typing_extensions import Unpack

DEFAULT_CALL_TIMEOUT_S = 300.0
"""Of one call: a curve, or a map of a method that hides regions, is hundreds of passes."""

DatasetInput: TypeAlias = "Dataset | Path | str"
MethodsInput: TypeAlias = "str | Sequence[str | Method]"


class RunOptions(TypedDict, total=False):
    """How to run; see `run_protocol`."""

    concurrency: int
    limit: int | None
    controls: bool
    fresh: bool
    bootstrap: Bootstrap | None
    progress: bool


def evaluate_images(
    client: Client,
    dataset: DatasetInput,
    *,
    model: str,
    methods: MethodsInput,
    metrics: MetricsInput = None,
    profile: str | None = None,
    target: ClassTarget | None = None,
    enlargement: str | None = None,
    directory: Path | str | None = None,
    seed: int = 0,
    timeout: float = DEFAULT_CALL_TIMEOUT_S,
    **run: Unpack[RunOptions],
) -> Evaluation:
    """Score the maps of single pictures: are they faithful to the model's class?

    Args:
        client: Connected to the server that holds the model.
        dataset: Its pictures, or where they are (see `read_dataset`).
        model: Name of a served model that knows classes.
        methods: "rollout, grad_cam(rule=libra)", a list of these, or "all".
        metrics: "deletion(steps=32), insertion", a list of these or of `Metric`s. None:
            see `ImageOptions`.
        profile: "strict" or "reference", for all metrics that take one. "reference" changes
            the defaults of `target` and `enlargement`, too.
        target: Whether the "predicted" class is explained, or the picture's "label"; see
            `ImageOptions` for None.
        enlargement: How cells become pixels; the same.
        directory: Keeps the journal, from which an interrupted evaluation goes on; None:
            nothing is kept.
        seed: Of all choices.
        timeout: Seconds of each call.
        **run: See `run_protocol`.

    Raises:
        PairlensError: What was asked for cannot be, or the server is gone.
        EvaluationInterrupted: Ctrl-C.

    Example:
        >>> evaluation = evaluate_images(client, "photos", model="vit", methods="all")
        >>> print(evaluation.console())
        >>> evaluation.values("rollout", "insertion").values.mean()
    """
    details = client.get_model(model)
    data = _dataset(dataset, details, seed, directory)
    rows = method_rows(methods, details.model, MethodKind.EXPLANATION)
    options = ImageOptions(metrics, profile, target, enlargement, seed, timeout)
    protocol = SingleImages(client, details.model, data, rows, options)
    return run_protocol(protocol, directory, **run)


def evaluate_pairs(
    client: Client,
    dataset: DatasetInput,
    *,
    model: str,
    methods: MethodsInput,
    directory: Path | str,
    fractions: Sequence[float] | None = None,
    substrates: Sequence[str] | None = None,
    seed: int = 0,
    timeout: float = DEFAULT_CALL_TIMEOUT_S,
    **run: Unpack[RunOptions],
) -> Evaluation:
    """Score pair maps by PairFaith: are they faithful to the similarity?

    Args:
        client: Connected to the server that holds the model.
        dataset: Labelled pictures; see `evaluate_images`. `limit` is of the queries: their
            partners come from all pictures.
        model: Name of a served model.
        methods: Pair methods; see `evaluate_images`.
        directory: Keeps the journal and the embeddings.
        fractions: See `PairOptions`; None for its default.
        substrates: The same.
        seed: Of all choices.
        timeout: Seconds of each call.
        **run: See `run_protocol`.

    Raises:
        PairlensError: As `evaluate_images`.
        EvaluationInterrupted: Ctrl-C.
    """
    details = client.get_model(model)
    given = {"fractions": fractions, "substrates": substrates}
    chosen = {name: tuple(value) for name, value in given.items() if value is not None}
    protocol = PairFaith(
        client,
        details.model,
        _dataset(dataset, details, seed, directory),
        method_rows(methods, details.model, MethodKind.PAIR),
        Path(directory),
        PairOptions(seed=seed, timeout=timeout, **chosen),  # type: ignore[arg-type]
        _steps(run),
    )
    return run_protocol(protocol, directory, **run)


def evaluate_mosaics(
    client: Client,
    dataset: DatasetInput,
    *,
    model: str,
    methods: MethodsInput,
    directory: Path | str,
    seed: int = 0,
    timeout: float = DEFAULT_CALL_TIMEOUT_S,
    **run: Unpack[RunOptions],
) -> Evaluation:
    """Score maps of mosaics: does the energy lie on the tile of the class? No boxes needed.

    Args:
        client: Connected to the server that holds the model.
        dataset: See `evaluate_images`; `limit` is of the mosaics.
        model: Name of a served model that knows classes.
        methods: Methods of `Client.explain`; see `evaluate_images`.
        directory: Keeps the journal and the mosaics.
        seed: Of all choices.
        timeout: Seconds of each call.
        **run: See `run_protocol`.

    Raises:
        PairlensError: As `evaluate_images`.
        EvaluationInterrupted: Ctrl-C.
    """
    details = client.get_model(model)
    protocol = ClassMosaics(
        client,
        details.model,
        _dataset(dataset, details, seed, directory),
        method_rows(methods, details.model, MethodKind.EXPLANATION),
        Path(directory),
        MosaicOptions(seed=seed, timeout=timeout),
        _steps(run),
    )
    return run_protocol(protocol, directory, **run)


def evaluate_pair_mosaics(
    client: Client,
    dataset: DatasetInput,
    *,
    model: str,
    methods: MethodsInput,
    directory: Path | str,
    seed: int = 0,
    timeout: float = DEFAULT_CALL_TIMEOUT_S,
    **run: Unpack[RunOptions],
) -> Evaluation:
    """Score pair maps of mosaics: does the energy lie on the tile of the partner's class?

    Args:
        client: Connected to the server that holds the model.
        dataset: Labelled pictures; see `evaluate_images`. `limit` is of the mosaics.
        model: Name of a served model.
        methods: Pair methods; see `evaluate_images`.
        directory: Keeps the journal and the mosaics.
        seed: Of all choices.
        timeout: Seconds of each call.
        **run: See `run_protocol`.

    Raises:
        PairlensError: As `evaluate_images`.
        EvaluationInterrupted: Ctrl-C.
    """
    details = client.get_model(model)
    protocol = PairMosaics(
        client,
        details.model,
        _dataset(dataset, details, seed, directory),
        method_rows(methods, details.model, MethodKind.PAIR),
        Path(directory),
        MosaicOptions(seed=seed, timeout=timeout),
    )
    return run_protocol(protocol, directory, **run)


def _dataset(
    dataset: DatasetInput, details: ModelDetails, seed: int, directory: Path | str | None
) -> Dataset:
    if isinstance(dataset, Dataset):
        return dataset
    if directory is not None:
        check_apart(Path(dataset), Path(directory))
    return read_dataset(dataset, seed=seed, limits=details.limits)


def _steps(run: RunOptions) -> Progress | None:
    return StepsLine(sys.stderr) if run.get("progress", True) else None
