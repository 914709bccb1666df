"""Pairs of which a region of one picture is asked for."""

import dataclasses

from pairlens import Box, Client, Rendering, masks
from pairlens.v1 import common_pb2
from tests.client.scripted import Scripted, png
from tests.client.test_results import first_match, same


def test_regions(client: Client, service: Scripted):
    (match,) = client.pair_similarity(
        png(), png(), model="cnn", method="correspondence", query_region=(6, 4, 30, 20)
    )
    assert match.query_region == Box(6, 4, 30, 20)
    assert service.calls[-1].method.correspondence.query_region.right == 30
    client.pair_similarity(
        png(),
        png(),
        model="cnn",
        method="correspondence",
        candidate_region=Box(6, 4, 30, 20),
        render=Rendering(),
    )
    # A region's cells would leave no colour for the other picture on a common scale.
    assert service.calls[-1].rendering.scale == common_pb2.COLOR_SCALE_IMAGE


def test_a_region_is_outlined_and_each_side_has_its_own_colours():
    match = dataclasses.replace(first_match(), query_region=Box(6, 4, 30, 20))
    drawn = match.overlay()
    expected = masks.region_outline(match.query.overlay(), Box(6, 4, 30, 20), 40, 60)
    assert same(drawn.crop((0, 0, 60, 40)), expected)
    assert same(drawn, match.overlay(scale="image"))
    assert not same(drawn, match.overlay(scale="pair"))
    assert not same(drawn, first_match().overlay(scale="image"))
