"""Evaluations of seeded random numbers, of which a test knows what must be seen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from pairlens.evaluation.protocol import CurveInfo
from pairlens.evaluation.records import DrawnMap, Measure, Record, Row, Series, SkippedFile
from pairlens.evaluation.results import Evaluation

HOSTILE = "<script>alert('x')</script> & \"quotes\""
FRACTIONS = tuple(float(fraction) for fraction in np.linspace(0, 1, 21))
MEASURES = (
    Measure(
        "deletion",
        "Deletion AUC",
        "Area under the probability while the most relevant pixels are erased first, in [0, 1].",
        higher_is_better=False,
    ),
    Measure(
        "energy",
        "Energy in the box",
        "Share of the positive values that lie inside the object's box.",
        higher_is_better=True,
        chance=0.25,
    ),
    Measure("passes", "Forward passes", "How many forward passes a map takes.", None),
)
CURVES = (
    CurveInfo("deletion", "Deletion", "share of the picture erased", "probability", False),
    CurveInfo("insertion", "Insertion", "share of the picture shown", "probability", True),
)


def made_evaluation(
    root: Path,
    methods: dict[str, float],
    controls: dict[str, float],
    *,
    cases: int = 24,
    pair: bool = False,
    seed: int = 0,
) -> Evaluation:
    """An evaluation whose headline is about what is given for each row.

    Args:
        root: Where pictures are written, one of each of four classes.
        methods: Mean deletion of each.
        controls: The same.
        cases: Of each row; the last one of the first method failed.
        pair: Whether cases have two maps.
        seed: Of all numbers.
    """
    generator = np.random.default_rng(seed)
    groups = ("Leopards", HOSTILE, "starfish", "grand_piano")
    for index, size in enumerate(((96, 64), (64, 96), (80, 80), (120, 60))):
        noise = generator.integers(0, 255, (6, 6, 3), np.uint8)
        Image.fromarray(noise).resize(size).save(root / f"{index}.png")
    difficulty = generator.normal(0, 0.03, cases)
    records = []
    for name, level in {**methods, **controls}.items():
        for case in range(cases):
            value = float(level + difficulty[case] + generator.normal(0, 0.01))
            maps = [_map(generator, case % 4, "query" if pair else "")]
            maps += [_map(generator, (case + 1) % 4, "partner")] if pair else []
            records.append(
                Record(
                    row=name,
                    case=f"{groups[case % 4]}/{case:03}.png",
                    group=groups[case % 4],
                    values={"deletion": value, "energy": None if case % 3 else value, "passes": 9},
                    curves={curve.name: _curve(curve, value) for curve in CURVES},
                    maps=tuple(maps),
                )
            )
    last = next(record for record in reversed(records) if record.row == next(iter(methods)))
    failed = replace(last, values={}, curves={}, maps=(), error=f"boom {HOSTILE}")
    return Evaluation(
        protocol="images",
        title="Deletion and insertion",
        configuration={
            "protocol": "images",
            "cases": cases,
            "settings": {
                "model": "vit_tiny",
                "fingerprint": "ab12cd",
                "seed": seed,
                "target": HOSTILE,
                "fractions": FRACTIONS,
            },
        },
        hash="0123456789abcdef",
        rows=(
            *(Row(name) for name in methods),
            Row("lime", refusal=f"needs {HOSTILE}"),
            *(Row(name, control=True, description=f"What {name} is.") for name in controls),
        ),
        measures=MEASURES,
        curves=CURVES,
        headline="deletion",
        records=tuple(record for record in records if record is not last),
        failures=(failed,),
        skipped=(SkippedFile(f"{HOSTILE}.jpg", "broken data stream"),),
        planned=cases,
        root=root,
    )


def _map(generator: np.random.Generator, picture: int, role: str) -> DrawnMap:
    heatmap = generator.random((7, 7), np.float32)
    width, height = ((96, 64), (64, 96), (80, 80), (120, 60))[picture]
    return DrawnMap(f"{picture}.png", role, heatmap, (0.0, 0.0, float(width), float(height)))


def _curve(curve: CurveInfo, value: float) -> Series:
    fractions = np.array(FRACTIONS)
    falling = np.exp(-fractions / max(value, 0.02))
    scores = falling if curve.name == "deletion" else 1 - falling
    return Series(FRACTIONS, tuple(float(score) for score in scores))
