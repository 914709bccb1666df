"""`pairlens methods`: what can be shown, at what cost, and where it comes from."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from pairlens import cli_arguments, cli_output
from pairlens.models import MethodInfo, ModelInfo

if TYPE_CHECKING:
    from pairlens.cli_arguments import Commands

_EPILOG = """\
examples:
  pairlens methods
  pairlens methods --model demo-vit       and why it cannot give the others
  pairlens methods --json | jq -r '.models[0].methods[] | select(.refusal == "") | .name'
"""


def add_command(commands: Commands) -> None:
    """Add the command."""
    parser = cli_arguments.add_command(
        commands, "methods", "List the methods with their costs and sources.", _EPILOG
    )
    parser.add_argument(
        "--model", metavar="NAME", help="say what this model gives (default: any that is served)"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the command; 0, or a PairlensError."""
    with cli_arguments.open_client(arguments) as client:
        if arguments.model is None:
            models = client.list_models()
        else:
            models = (client.get_model(arguments.model).model,)
    if arguments.json:
        cli_output.print_json(
            {"models": [{"model": model.name, "methods": model.methods} for model in models]}
        )
    elif arguments.model is None:
        _print_all(models)
    else:
        _print_of(models[0])
    return 0


def _print_of(model: ModelInfo) -> None:
    cli_output.print_table(
        f"{model.name} ({model.architecture})",
        ("method", "of", "target", "forward passes", "source", "what it shows, or why not"),
        [
            (
                method.name,
                method.kind.value,
                target_kinds(method),
                f"{method.forward_passes:.3g}" if method.supported else "",
                method.source,
                shown(method),
            )
            for method in model.methods
        ],
    )
    cautions = {method.name: method.caution for method in model.methods if method.caution}
    if cautions:
        cli_output.print_table("before using", ("method", "know that"), list(cautions.items()))


def _print_all(models: tuple[ModelInfo, ...]) -> None:
    found: dict[tuple[str, str], list[tuple[ModelInfo, MethodInfo]]] = {}
    for model in models:
        for method in model.methods:
            found.setdefault((method.kind.value, method.name), []).append((model, method))
    cli_output.print_table(
        "",
        ("method", "of", "target", "forward passes", "source", "models"),
        [
            (
                name,
                kind,
                target_kinds(offered[0][1]),
                _costs([method for _, method in offered if method.supported]),
                offered[0][1].source,
                _givers(offered),
            )
            for (kind, name), offered in found.items()
        ],
    )


def target_kinds(method: MethodInfo) -> str:
    """What a method may explain: "class", "similarity", both or nothing."""
    kinds = (("class", method.takes_class), ("similarity", method.takes_similarity))
    return ", ".join(name for name, taken in kinds if taken)


def shown(method: MethodInfo) -> str:
    """What a method shows, or why the model cannot give it."""
    return method.summary if method.supported else f"refused: {method.refusal}"


def _costs(methods: list[MethodInfo]) -> str:
    passes = sorted({method.forward_passes for method in methods})
    ends = dict.fromkeys(f"{end:.3g}" for end in (*passes[:1], *passes[-1:]))
    return " to ".join(ends)


def _givers(offered: list[tuple[ModelInfo, MethodInfo]]) -> str:
    names = [model.name for model, method in offered if method.supported]
    if names:
        return ", ".join(names)
    reasons = dict.fromkeys(method.refusal for _, method in offered)
    return f"none: {'; '.join(reasons)}"
