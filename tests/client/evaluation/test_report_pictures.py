"""The best, median and worst cases of a report."""

import base64
import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from pairlens.evaluation.records import DrawnMap
from pairlens.evaluation.report import write_report
from pairlens.evaluation.report_pictures import MOST_BYTES, CasePictures
from pairlens.rendering import Box, GridGeometry, overlay
from tests.client.evaluation.made_evaluation import made_evaluation
from tests.client.evaluation.outline import Outline

METHODS = {"rollout": 0.3, "grad_cam(rule=libra, layer=3)": 0.2, "attention": 0.25}
CONTROLS = {"random": 0.4, "centre_gaussian": 0.32}


@pytest.fixture
def evaluation(tmp_path):
    return made_evaluation(tmp_path, METHODS, CONTROLS)


def test_cases_are_the_best_the_median_and_the_worst(evaluation):
    row = evaluation.row("attention")
    ordered = sorted(
        (record for record in evaluation.records if record.row == "attention"),
        key=lambda record: record.values["deletion"],
    )
    kinds = CasePictures(evaluation, 5).kinds(row)
    assert [title for title, _ in kinds] == ["Best", "Median", "Worst"]
    best, median, worst = (records for _, records in kinds)
    assert best == tuple(ordered[:2])
    assert median == tuple(ordered[11:13])
    assert worst == (ordered[-1], ordered[-2])


def test_no_case_is_shown_twice(tmp_path):
    evaluation = made_evaluation(tmp_path, {"rollout": 0.3, "attention": 0.2}, {}, cases=3)
    kinds = CasePictures(evaluation, 2).kinds(evaluation.row("attention"))
    shown = [record.case for _, records in kinds for record in records]
    assert len(shown) == len(set(shown)) == 3


def test_pictures_are_the_overlays(evaluation):
    row = evaluation.row("grad_cam(rule=libra, layer=3)")
    html = CasePictures(evaluation, 5).html(row)
    (best, *_) = evaluation.best(row.name, 1)
    (drawn,) = best.maps
    picture = evaluation.picture(drawn)
    geometry = GridGeometry(7, 7, picture.height, picture.width, Box(*drawn.region))
    ends = {"low": float(drawn.heatmap.min()), "high": float(drawn.heatmap.max())}
    expected = np.asarray(overlay(picture, drawn.heatmap, geometry, **ends)).astype(int)
    found = pictures_of(html)[0]
    assert found.size == picture.size
    assert np.abs(np.asarray(found).astype(int) - expected).mean() < 4
    assert f"<b>{best.values['deletion']:.3f}</b>" in html
    assert "best case" in Outline(html).values("alt")[0]


def test_pairs_stand_side_by_side_on_one_scale(tmp_path):
    evaluation = made_evaluation(tmp_path, {"similarity": 0.3}, {}, pair=True)
    first, *others = evaluation.records
    low, high = (
        replace(drawn, heatmap=drawn.heatmap + offset)
        for drawn, offset in zip(first.maps, (0, 5), strict=True)
    )
    best = replace(first, values={"deletion": 0.0}, maps=(low, high))
    evaluation = replace(evaluation, records=(best, *others))
    html = CasePictures(evaluation, 1).html(evaluation.row("similarity"))
    assert html.count("query</figcaption>") == html.count("partner</figcaption>") == 6
    query, partner = (np.asarray(picture).astype(int) for picture in pictures_of(html)[:2])
    # One end of the colours is violet, the other yellow: less blue than green.
    assert (query[..., 2] > query[..., 1]).mean() > 0.9
    assert (partner[..., 2] < partner[..., 1]).mean() > 0.9


def test_large_pictures_are_reduced(tmp_path):
    evaluation = made_evaluation(tmp_path, {"rollout": 0.3}, {}, cases=4)
    Image.effect_noise((1200, 900), 40).convert("RGB").save(tmp_path / "large.png")
    heatmap = np.eye(7, dtype=np.float32)
    drawn = DrawnMap("large.png", "", heatmap, (150.0, 0.0, 1050.0, 900.0))
    best = replace(evaluation.records[0], values={"deletion": 0.0}, maps=(drawn,))
    evaluation = replace(evaluation, records=(best, *evaluation.records[1:]))
    html = CasePictures(evaluation, 1).html(evaluation.row("rollout"))
    found = pictures_of(html)[0]
    assert found.size == (320, 240)
    levels = np.asarray(found).astype(int)
    assert np.ptp(levels[:, 20], axis=1).mean() < 8  # beside the region: grey, as it was
    assert np.ptp(levels[:, 160], axis=1).mean() > 20


def test_missing_pictures_and_constant_maps_are_said(evaluation, tmp_path):
    (tmp_path / "0.png").unlink()
    (tmp_path / "1.png").write_bytes(b"broken")
    flat = tuple(
        replace(
            record,
            maps=tuple(replace(each, heatmap=np.zeros((7, 7), np.float32)) for each in record.maps),
        )
        for record in evaluation.records
    )
    report = write_report(replace(evaluation, records=flat), tmp_path / "r.html").read_text("utf-8")
    assert Outline(report).open == []
    assert "The picture is not there any more: 0.png" in report
    assert "The picture is not there any more: 1.png" in report
    assert "(constant map)" in report


@pytest.mark.parametrize(("rows", "count", "side"), [(5, 2, 320), (25, 2, 320), (200, 1, 190)])
def test_many_rows_get_fewer_pictures(tmp_path, rows, count, side):
    evaluation = made_evaluation(tmp_path, {"rollout": 0.3}, {}, cases=2, pair=True)
    pictures = CasePictures(evaluation, rows)
    assert (pictures.count, pictures.side) == (count, side)
    assert rows * 6 * count * side * side * 0.2 < MOST_BYTES


def pictures_of(html):
    return [
        Image.open(io.BytesIO(base64.b64decode(source.split(",")[1])))
        for source in Outline(html).values("src")
    ]
