"""Today's SDK against servers that know an older contract and nothing newer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from pairlens import (
    Client,
    Explanation,
    MethodUnsupportedError,
    PairMatch,
    PairResults,
    Rendering,
    SimilarTo,
    UnimplementedError,
    cli,
)
from tests.compat.descriptors import FileSet
from tests.compat.dynamic import Contract
from tests.contract.support import png, unseen

ATOL = 1e-5


@pytest.fixture(scope="module")
def old(old_target: str) -> Iterator[Client]:
    with Client(old_target, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def new(server_target: str) -> Iterator[Client]:
    with Client(server_target, timeout=60) as client:
        yield client


CALLS: dict[str, Callable[[Client], Explanation]] = {
    "explain": lambda c: c.explain(png(1), model="tiny-vit"),
    "a class": lambda c: c.explain(png(1), model="tiny-vit", method="grad_cam", target=2),
    "a similarity": lambda c: c.explain(
        png(1), model="tiny-vit", method="affinity", target=SimilarTo(png(2))
    ),
    "heads": lambda c: c.explain(
        png(1), model="tiny-vit-cls", method="raw_attention", each="block_and_head"
    ),
    "drawn": lambda c: c.explain(png(1), model="tiny-vit", render=Rendering(upsampled=True)),
    "class_similarity": lambda c: c.class_similarity(png(1), [png(2), png(3)], model="tiny-vit"),
}


@pytest.mark.parametrize("name", CALLS)
def test_maps(old: Client, new: Client, name: str):
    mine, theirs = CALLS[name](new), CALLS[name](old)
    np.testing.assert_allclose(theirs.heatmap, mine.heatmap, atol=ATOL)
    assert np.ptp(theirs.heatmap) > 0
    assert theirs.provenance == mine.provenance
    assert theirs.method == mine.method
    assert len(theirs.panels) == len(mine.panels)
    assert theirs.geometry == mine.geometry
    assert (theirs.rendered is None) == (mine.rendered is None)


def test_pairs(old: Client, new: Client):
    def ask(client: Client) -> PairResults:
        return client.pair_similarity(png(1), [png(2), b"no picture", png(3)], model="tiny-vit")

    mine, theirs = ask(new), ask(old)
    assert len(theirs) == 3
    for one, other in zip(theirs, mine, strict=True):
        assert isinstance(one, PairMatch) == isinstance(other, PairMatch)
        if isinstance(one, PairMatch) and isinstance(other, PairMatch):
            assert one.similarity == pytest.approx(other.similarity, abs=ATOL)
            np.testing.assert_allclose(one.query.heatmap, other.query.heatmap, atol=ATOL)


def test_embeddings(old: Client, new: Client):
    pictures = [png(1), png(2)]
    np.testing.assert_allclose(
        old.embed(pictures, model="tiny-vit").vectors,
        new.embed(pictures, model="tiny-vit").vectors,
        atol=ATOL,
    )


def test_scores(old: Client, new: Client):
    def ask(client: Client) -> dict[str, float | None]:
        scores = client.score_saliency(png(1), model="tiny-vit", method="grad_cam").scores
        return {score.metric.name: score.value for score in scores}

    mine = ask(new)
    assert None not in mine.values()
    assert ask(old) == pytest.approx(mine, abs=1e-3)


def test_what_a_server_holds(old: Client, new: Client):
    assert [model.name for model in old.list_models()] == [m.name for m in new.list_models()]
    theirs, mine = old.get_model("tiny-vit"), new.get_model("tiny-vit")
    assert theirs.model == mine.model
    assert theirs.limits.max_request_bytes == mine.limits.max_request_bytes


def test_pictures_by_their_hashes(old: Client):
    picture = unseen() + bytes(200_000)
    sent = [old.explain(picture, model="tiny-vit").heatmap for _ in range(3)]
    assert np.array_equal(sent[0], sent[2])


def test_the_cache(old: Client):
    assert old.warm([png(1)], model="tiny-vit", pair_methods="pooled_decomposition")
    assert {kind.kind for kind in old.cache_stats().memory} == {"activation", "image"}
    assert old.clear_cache("tiny-vit").redis_cleared


def test_errors(old: Client):
    with pytest.raises(MethodUnsupportedError) as caught:
        old.explain(png(1), model="tiny-resnet", method="rollout")
    assert caught.value.reason == "METHOD_UNSUPPORTED"


def test_calls_that_the_server_does_not_have(old: Client, older: FileSet):
    there = {rpc.name for rpc in Contract(older).rpcs()}
    for name, call in (("ReloadModels", old.reload_models), ("Drain", old.drain)):
        if name not in there:
            with pytest.raises(UnimplementedError, match="does not offer this call"):
                call()
    assert {"Explain", "PairSimilarity", "ListModels"} <= there
    assert old.list_models()


def test_the_command_line(old_target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    picture = tmp_path / "cat.png"
    picture.write_bytes(png(1))
    for words in (
        ("models",),
        ("models", "tiny-vit"),
        ("explain", str(picture), "--model", "tiny-vit"),
        ("server", "status"),
        ("cache", "stats"),
    ):
        assert cli.main([*words, "--server", old_target]) == 0, capsys.readouterr().err
