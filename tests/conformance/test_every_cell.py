"""Every method on every network of the zoo, through gRPC: a right answer or a told refusal."""

from __future__ import annotations

import itertools

import grpc
import numpy as np
import pytest

from tests.conformance.cells import (
    EXPLANATION,
    cells,
    differ,
    flaws,
    pair_method,
    picture,
    reacts,
    unbalanced,
)
from tests.contract.support import failure_of_rpc, values
from tests.zoo import zoo

ATTEMPTS = 15
# Of the map's largest value: a batch of another size rounds its last bits in another way.
_AGAIN = 1e-5


def told(problems: list[str]) -> str:
    return "\n".join(["", *problems])


@pytest.mark.parametrize("name", zoo())
def test_explain(server, name):
    info = server.get_model(name).model
    asked = list(cells(info))
    assert asked
    problems, maps = [], {}
    for cell in asked:
        answer = cell.ask(server, picture(info, 0))
        maps[cell] = values(answer)
        problems += [f"{cell}: {flaw}" for flaw in flaws(cell.method, answer, info)]
        problems += [
            f"{cell}, a panel: {flaw}"
            for panel in answer.panels
            for flaw in flaws(cell.method, panel, info)
        ]
        problems += [f"{cell}: {flaw}" for flaw in unbalanced(cell.method, answer)]
        if answer.timing.cached_images:
            problems.append(f"{cell}: it was cached, so that nothing is shown")
        if answer.HasField("target") != (cell.target != "none"):
            problems.append(f"{cell}: target {answer.target}")
    # Again, after all the others, in the other order.
    for cell in reversed(asked):
        again = values(cell.ask(server, picture(info, 0)))
        scale = max(1.0, float(np.abs(again).max()))
        if np.abs(again - maps[cell]).max() > _AGAIN * scale:
            problems.append(f"{cell}: {np.abs(again - maps[cell]).max()} off when asked again")
    for cell in asked:

        def ask(seed: int, class_index: int, cell=cell) -> np.ndarray:
            if (seed, class_index) == (0, 1):
                return maps[cell]
            return values(cell.ask(server, picture(info, seed), class_index))

        if not reacts(ask, ATTEMPTS):
            problems.append(f"{cell}: the map is the same for every picture")
    assert not problems, told(problems)


@pytest.mark.parametrize("name", zoo())
def test_pairs(server, name):
    info = server.get_model(name).model
    query, *others = (picture(info, seed) for seed in range(3))
    problems: list[str] = []
    similarities, first = {}, {}
    supported = [m.name for m in info.methods if m.kind != EXPLANATION and not m.refusal]
    assert supported
    for method in supported:
        answer = server.pair(name, query, *others, method=pair_method(method))
        matches = [result.match for result in answer.results]
        similarities[method] = [match.similarity for match in matches]
        first[method] = [
            values(side) for match in matches for side in (match.query, match.candidate)
        ]
        for match, side_name in itertools.product(matches, ("query", "candidate")):
            side = getattr(match, side_name)
            problems += [f"{method}, {side_name}: {flaw}" for flaw in flaws(method, side, info)]
            if method == "pooled_decomposition":
                total = side.sum + side.bias_share + side.prefix_share
                if abs(total - match.similarity) > 1e-5:
                    problems.append(f"{side_name} sums to {total}, not {match.similarity}")
        if not any(differ(*first[method][place::2]) for place in (0, 1)):
            problems.append(f"{method}: the same maps for two candidates")
    for method in reversed(supported):
        answer = server.pair(name, query, *others, method=pair_method(method))
        sides = [s for r in answer.results for s in (r.match.query, r.match.candidate)]
        for before, side in zip(first[method], sides, strict=True):
            off = float(np.abs(before - values(side)).max())
            if off > _AGAIN * max(1.0, float(np.abs(before).max())):
                problems.append(f"{method}: {off} off when asked again")
    one, *more = similarities.values()
    for method, found in zip(supported[1:], more, strict=True):
        if not np.allclose(found, one, atol=1e-5):
            problems.append(f"{method}: similarities {found}, not {one}")
    assert not problems, told(problems)


@pytest.mark.parametrize("name", zoo())
def test_what_is_refused_is_refused_with_the_reason_that_is_listed(server, name):
    info = server.get_model(name).model
    problems = []
    for method in info.methods:
        if not method.refusal:
            continue
        explains = method.kind == EXPLANATION
        try:
            if explains:
                server.explain(name, picture(info, 0), method={method.name: {}})
            else:
                server.pair(
                    name, picture(info, 0), picture(info, 1), method=pair_method(method.name)
                )
        except grpc.RpcError as error:
            found = failure_of_rpc(error)
            expected = (
                *("FAILED_PRECONDITION", "METHOD_UNSUPPORTED", "method"),
                f"no {method.name} on this model: {method.refusal}",
            )
            if (found.code, found.reason, found.field, found.message) != expected:
                problems.append(f"{method.name}: {found}")
        else:
            problems.append(f"{method.name}: runs, though {method.refusal}")
    assert not problems, told(problems)
