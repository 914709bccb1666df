"""`pairlens explain --method all`: everything that a model gives, on one sheet."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from pairlens import _saving, cli_arguments, cli_output, cli_parameters, cli_results
from pairlens._images import encode
from pairlens.cli_arguments import UsageError
from pairlens.cli_results import Outcome
from pairlens.client import Client
from pairlens.errors import (
    ImageTooLargeError,
    ImageUndecodableError,
    InvalidParameterError,
    ModelNotFoundError,
    PairlensError,
    UnavailableError,
)
from pairlens.figures import CELL_SIDE, contact_sheet
from pairlens.models import MethodInfo, MethodKind, ModelInfo
from pairlens.results import Explanation
from pairlens.targets import SimilarTo

ALL = "all"
"""What --method takes for every method."""

# The slowest methods run a forward pass for each channel or cell.
TIMEOUT_S = 600.0
# After these no other method of the same picture can do better.
_FATAL = (ImageUndecodableError, ImageTooLargeError, ModelNotFoundError, UnavailableError)


def run(
    arguments: argparse.Namespace,
    target: int | str | SimilarTo | None,
    places: Sequence[Path | None],
) -> int:
    """Run every method on every picture and draw a sheet of each picture.

    Returns:
        0, or 3 when a picture or a method of one could not be done.
    """
    parameters = cli_parameters.parameters(arguments)
    outcomes: list[Outcome] = []
    with cli_arguments.open_client(arguments, timeout=TIMEOUT_S) as client:
        model = _model(client, arguments.model)
        methods = _methods(model, target, arguments.max_cost)
        _check_parameters(parameters, methods)
        for image, place in zip(arguments.images, places, strict=True):
            outcomes += _outcomes(client, arguments, model, methods, target, image, place)
    return cli_results.report(outcomes, json=arguments.json)


def _model(client: Client, name: str | None) -> ModelInfo:
    """The named model, or the first that explains at all."""
    if name is not None:
        return client.get_model(name).model
    for model in client.list_models():
        if model.default_explanation_method is not None:
            return model
    raise ModelNotFoundError("no served model explains pictures", field="model")


def _methods(
    model: ModelInfo, target: int | str | SimilarTo | None, max_cost: float | None
) -> list[MethodInfo]:
    """What the model supports and the target allows; what costs too much is named.

    Raises:
        InvalidParameterError: Nothing takes the target.
        UsageError: There is none, or all cost too much.
    """
    supported = [
        method
        for method in model.methods
        if method.kind is MethodKind.EXPLANATION
        and method.supported
        and (not method.takes_target or _takes(method, target))
    ]
    if not supported:
        raise UsageError(f"{model.name} explains no pictures")
    if target is not None and not any(method.takes_target for method in supported):
        raise InvalidParameterError(f"no method of {model.name} takes such a target")
    if max_cost is None:
        return supported
    dear = [method for method in supported if method.forward_passes > max_cost]
    if len(dear) == len(supported):
        raise UsageError(f"--max-cost {max_cost:g} leaves no method")
    if dear:
        names = ", ".join(f"{method.name} ({_cost(method)})" for method in dear)
        cli_output.warn(f"left out for --max-cost {max_cost:g}: {names}")
    return [method for method in supported if method not in dear]


def _takes(method: MethodInfo, target: int | str | SimilarTo | None) -> bool:
    return method.takes_similarity if isinstance(target, SimilarTo) else method.takes_class


def _check_parameters(parameters: Mapping[str, Any], methods: Sequence[MethodInfo]) -> None:
    """Refuse a parameter that would go to no method.

    Raises:
        UsageError: Names the first that no method takes.
    """
    taken = {parameter.name for method in methods for parameter in method.parameters}
    for name in parameters:
        if name not in taken:
            raise UsageError(f"no method of this model takes {name}")


def _outcomes(
    client: Client,
    arguments: argparse.Namespace,
    model: ModelInfo,
    methods: Sequence[MethodInfo],
    target: int | str | SimilarTo | None,
    image: Path,
    place: Path | None,
) -> list[Outcome]:
    """Draw the sheet of one picture; one of several that cannot be used fails alone."""
    try:
        return _sheet(client, arguments, model, methods, target, image, place)
    except (ImageUndecodableError, ImageTooLargeError) as error:
        if len(arguments.images) == 1:
            raise
        return [cli_results.failed(image, error)]


def _sheet(
    client: Client,
    arguments: argparse.Namespace,
    model: ModelInfo,
    methods: Sequence[MethodInfo],
    target: int | str | SimilarTo | None,
    image: Path,
    place: Path | None,
) -> list[Outcome]:
    """Run all methods on one picture, and draw them."""
    encoded = encode(image)
    parameters = cli_parameters.parameters(arguments)
    made: list[tuple[MethodInfo, Explanation | PairlensError]] = []
    for method in cli_output.progress_by_cost(
        methods, lambda method: f"{method.name}, {_cost(method)}", lambda m: m.forward_passes + 1
    ):
        taken = {parameter.name for parameter in method.parameters}
        try:
            explanation = client.explain(
                encoded,
                model=model.name,
                method=method.name,
                target=target if method.takes_target else None,
                **{name: value for name, value in parameters.items() if name in taken},
            )
            made.append((method, explanation))
        except _FATAL:
            raise
        except PairlensError as error:
            made.append((method, error))
    if place is not None:
        _draw(made, encoded.picture(), place, model, arguments)
    return [
        cli_results.failed(image, outcome, method.name, model.name)
        if isinstance(outcome, PairlensError)
        else cli_results.explained(image, outcome, place)
        for method, outcome in made
    ]


def _draw(
    made: Sequence[tuple[MethodInfo, Explanation | PairlensError]],
    picture: Image.Image,
    place: Path,
    model: ModelInfo,
    arguments: argparse.Namespace,
) -> None:
    style = cli_arguments.style(arguments)
    side = style.setdefault("max_side", CELL_SIDE) or CELL_SIDE
    cells: list[tuple[str, Image.Image | str]] = [
        (
            f"{method.name}\n{_cost(method)}",
            f"failed: {outcome.message}"
            if isinstance(outcome, PairlensError)
            else outcome.overlay(**style),
        )
        for method, outcome in made
    ]
    targets = [
        outcome.target
        for _, outcome in made
        if isinstance(outcome, Explanation) and outcome.target is not None
    ]
    title = f"{model.name}: {model.architecture}"
    if targets:
        what = "in sum" if targets[0].similarities else "probability"
        title += f"\n{targets[0]}, {what} {targets[0].score:.3g}"
    _saving.write_picture(place, contact_sheet(picture, cells, title=title, side=side))


def _cost(method: MethodInfo) -> str:
    passes = f"{method.forward_passes:.3g}"
    return f"{passes} forward {'pass' if passes == '1' else 'passes'}"
