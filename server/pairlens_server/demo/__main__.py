"""Explain the demo pairs: `python -m pairlens_server.demo --out FOLDER`."""

from __future__ import annotations

import argparse
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from pairlens import Client, PairlensError, PairMatch
from pairlens_server.demo.figure import pair_figure
from pairlens_server.demo.local_server import ServerFailedError, local_server
from pairlens_server.demo.pairs import MODELS_FILE, PAIRS, Pair
from pairlens_server.models.config import load_model_configs

_READY_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Answer:
    """What one model says about one pair, and how long two equal calls took, in seconds."""

    match: PairMatch
    cold_s: float
    warm_s: float


def ask(client: Client, pair: Pair, model: str) -> Answer:
    """Ask twice: the first call runs the model, the second finds its activations cached."""
    spent = []
    for _ in range(2):
        started_s = time.perf_counter()
        result = client.pair_similarity(pair.query, pair.candidate, model=model)[0]
        spent.append(time.perf_counter() - started_s)
    if not isinstance(result, PairMatch):
        raise result.error
    return Answer(result, cold_s=spent[0], warm_s=spent[1])


def run(out: Path, console: Console) -> None:
    """Start the server, explain every pair with every model, draw, print a table."""
    out.mkdir(parents=True, exist_ok=True)
    table = Table(title="why the demo pairs match")
    for heading in ("pair", "model", "cosine similarity", "cold", "warm"):
        table.add_column(heading)
    with ExitStack() as stack:
        with console.status("starting pairlens-server with the demo models"):
            client = stack.enter_context(Client(stack.enter_context(local_server(MODELS_FILE))))
            client.wait_ready(_READY_TIMEOUT_S)
            # Without the random twins, which are served besides and explain nothing.
            models = [config.name for config in load_model_configs(MODELS_FILE)]
        for pair in PAIRS:
            with console.status(f"explaining {pair.name}"):
                answers = {model: ask(client, pair, model) for model in models}
                matches = {model: answer.match for model, answer in answers.items()}
                figure = pair_figure(pair.name, pair.query, pair.candidate, matches)
                figure.save(out / f"{pair.name}.png")
            for model, answer in answers.items():
                table.add_row(
                    pair.name,
                    model,
                    f"{answer.match.similarity:.3f}",
                    f"{answer.cold_s * 1000:.0f} ms",
                    f"{answer.warm_s * 1000:.0f} ms",
                )
    console.print(table)
    console.print("The pictures; what is bright made the two photographs similar:")
    for pair in PAIRS:
        console.print(f"  {out / pair.name}.png", soft_wrap=True)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m pairlens_server.demo", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo-output"), help="folder to write to")
    arguments = parser.parse_args()
    console = Console()
    try:
        run(arguments.out, console)
    except (ServerFailedError, PairlensError) as error:
        console.print(f"demo failed: {error}", style="red")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
