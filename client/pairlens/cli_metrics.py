"""`pairlens metrics`: what a map can be scored by, and with which parameters."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from pairlens import cli_arguments, cli_models, cli_output
from pairlens.errors import ModelNotFoundError
from pairlens.models import ModelInfo

if TYPE_CHECKING:
    from pairlens.cli_arguments import Commands
    from pairlens.metrics import MetricInfo

_EPILOG = """\
examples:
  pairlens metrics
  pairlens metrics --model demo-vit
  pairlens metrics --json | jq -r '.metrics[].name'
"""


def add_command(commands: Commands) -> None:
    """Add the command."""
    parser = cli_arguments.add_command(
        commands, "metrics", "List the metrics of maps with their parameters.", _EPILOG
    )
    parser.add_argument(
        "--model", metavar="NAME", help="defaults and ranges of this model (default: the first)"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the command; 0, or a PairlensError."""
    with cli_arguments.open_client(arguments) as client:
        if arguments.model is not None:
            model = client.get_model(arguments.model).model
        elif models := client.list_models():
            model = models[0]
        else:
            raise ModelNotFoundError("the server serves no models", field="model")
    if arguments.json:
        cli_output.print_json({"model": model.name, "metrics": model.metrics})
    else:
        _print(model)
    return 0


def _print(model: ModelInfo) -> None:
    cli_output.print_table(
        f"{model.name} ({model.architecture})",
        ("metric", "better", "needs", "forward passes", "source", "what the value is"),
        [
            (
                metric.name,
                "higher" if metric.higher_is_better else "lower",
                _needs(metric),
                metric.forward_passes,
                metric.source,
                metric.summary,
            )
            for metric in model.metrics
        ],
    )
    cli_output.print_table(
        "parameters",
        ("metric", "parameter", "values", "default", "meaning"),
        [
            (
                metric.name,
                parameter.name,
                cli_models.values(parameter),
                parameter.default,
                parameter.description,
            )
            for metric in model.metrics
            for parameter in metric.parameters
        ],
    )


def _needs(metric: MetricInfo) -> str:
    return "--box or --mask" if metric.needs_region else ""
