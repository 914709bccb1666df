"""`pairlens models`: what a server holds and takes."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from pairlens import cli_arguments, cli_methods, cli_output
from pairlens.models import Limits, MethodInfo, MethodKind, ModelDetails, ModelInfo, ParameterInfo

if TYPE_CHECKING:
    from pairlens.cli_arguments import Commands

_EPILOG = """\
examples:
  pairlens models
  pairlens models demo-vit         methods, parameters with defaults, limits
  pairlens models --json | jq -r '.models[].name'
"""


def add_command(commands: Commands) -> None:
    """Add the command."""
    parser = cli_arguments.add_command(
        commands, "models", "List the served models, or describe one of them.", _EPILOG
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="describe this model")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the command; 0, or a PairlensError."""
    with cli_arguments.open_client(arguments) as client:
        if arguments.name is None:
            models = client.list_models()
            if arguments.json:
                cli_output.print_json({"models": models})
            else:
                print_models(models)
            return 0
        details = client.get_model(arguments.name)
    if arguments.json:
        cli_output.print_json(details)
    else:
        _print_details(details)
    return 0


def print_models(models: tuple[ModelInfo, ...]) -> None:
    """Print what a server serves, a line each."""
    cli_output.print_table(
        "",
        (
            "model",
            "architecture",
            "input",
            "grid",
            "pooling",
            "classes",
            "device",
            "methods of explain",
            "methods of pair",
        ),
        [
            (
                model.name,
                model.architecture,
                f"{model.input_height} x {model.input_width}",
                f"{model.grid_rows} x {model.grid_columns}",
                model.pooling,
                model.classes,
                f"{model.device} {model.dtype}",
                _supported(model, MethodKind.EXPLANATION),
                _supported(model, MethodKind.PAIR),
            )
            for model in models
        ],
    )


def _supported(model: ModelInfo, kind: MethodKind) -> str:
    methods = (method for method in model.methods if method.supported and method.kind is kind)
    return ", ".join(method.name for method in methods)


def _print_details(details: ModelDetails) -> None:
    model, limits = details.model, details.limits
    cli_output.print_table(model.name, ("property", "value"), _properties(model))
    cli_output.print_table(
        "methods",
        ("method", "kind", "target", "what it shows, or why the model cannot give it"),
        [
            (
                _marked(method, model),
                method.kind.value,
                cli_methods.target_kinds(method),
                cli_methods.shown(method),
            )
            for method in model.methods
        ],
    )
    rows = [
        (method.name, parameter.name, values(parameter), parameter.default, parameter.description)
        for method in model.methods
        for parameter in method.parameters
    ]
    if rows:
        cli_output.print_table(
            "parameters", ("method", "parameter", "values", "default", "meaning"), rows
        )
    print_limits(limits)


def print_limits(limits: Limits) -> None:
    """Print what a server takes."""
    cli_output.print_table(
        "limits",
        ("limit", "value"),
        [
            ("largest request", f"{limits.max_request_bytes:,} bytes"),
            ("largest picture", f"{limits.max_image_bytes:,} bytes"),
            ("largest picture", f"{limits.max_image_pixels:,} pixels"),
            ("most candidates", f"{limits.max_candidates:,}"),
            ("most rendered", f"{limits.max_rendered_pixels:,} pixels"),
            ("match matrices", f"{limits.max_match_values:,} values"),
            ("embeddings to compare with", f"{limits.max_target_embeddings:,}"),
            ("metrics of one score", f"{limits.max_metrics:,}"),
            ("changed pictures of one score", f"{limits.max_copies:,}"),
            ("work that may wait", f"{limits.max_queued_cost:,} forward passes"),
            ("keeps pictures", "yes" if limits.keeps_images else "no"),
            ("formats", ", ".join(limits.image_formats)),
        ],
    )


def _properties(model: ModelInfo) -> list[tuple[str, str]]:
    how = model.preprocessing
    crop = f" {how.crop_fraction:.3g}" if how.resize_mode == "crop" else ""
    transformer = [("blocks x heads", f"{model.blocks} x {model.heads}")] if model.blocks else []
    if model.hidden_units:
        transformer.append(("hidden units of a block", f"{model.hidden_units:,}"))
    if model.cam_layer:
        transformer.append(("layer of class activation maps", model.cam_layer))
    return [
        ("architecture", f"{model.architecture} ({model.family})"),
        ("fingerprint", model.fingerprint),
        ("device", f"{model.device} {model.dtype}"),
        ("input", f"{model.input_height} x {model.input_width} pixels"),
        ("preprocessing", f"{how.resize_mode}{crop}, {how.interpolation}"),
        ("grid", f"{model.grid_rows} x {model.grid_columns} cells"),
        ("prefix tokens", str(model.prefix_tokens)),
        *transformer,
        ("pooling", model.pooling),
        ("embedding", f"{model.embedding_size}{', projected' if model.projection else ''}"),
        ("classes", str(model.classes)),
        *([("with random weights", model.random_twin)] if model.random_twin else []),
    ]


def _marked(method: MethodInfo, model: ModelInfo) -> str:
    def is_default(*, similarity: bool) -> bool:
        default = model.default_method(method.kind, similarity=similarity)
        return default is not None and default.name == method.name

    if is_default(similarity=False):
        return f"{method.name} (default)"
    similar = method.kind is MethodKind.EXPLANATION and is_default(similarity=True)
    return f"{method.name} (default for a similarity)" if similar else method.name


def values(parameter: ParameterInfo) -> str:
    """Which values a parameter takes."""
    if parameter.choices:
        return ", ".join(parameter.choices)
    low, high = parameter.minimum, parameter.maximum
    if low is not None and high is not None:
        return (
            f"{'above ' if parameter.minimum_excluded else ''}{low:g} to "
            f"{'below ' if parameter.maximum_excluded else ''}{high:g}"
        )
    if low is not None:
        return f"{'above' if parameter.minimum_excluded else 'at least'} {low:g}"
    return parameter.type
