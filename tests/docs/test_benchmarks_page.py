"""The page of benchmarks names every suite, and its tables are what runs have written."""

import re
from pathlib import Path

import pytest

from tests.benchmark.growth_rows import CACHE_BYTES
from tests.benchmark.load_rows import DEADLINE_S, GOODPUT_AIM, LOADS
from tests.benchmark.measure import Row
from tests.benchmark.page import filled
from tests.benchmark.photographs import DIFFERENT, SIZE, photograph
from tests.benchmark.serving_rows import CANDIDATES
from tests.benchmark.suites import GPU_SUITES, SUITES

PAGE = (Path(__file__).parents[2] / "docs" / "benchmarks.md").read_text(encoding="utf-8")
WORDS = " ".join(PAGE.split())
MACHINE = {
    "processor": "A",
    "cores": 2,
    "threads": 2,
    "gpu": None,
    "python": "3.12.1",
    "torch": "2.15.0",
    "timm": "1.0.31",
}


def document(*rows: Row, quick: bool = False, **machine: object) -> dict[str, object]:
    lines = [{"suite": "load", **row.as_dict()} for row in rows]
    seconds = {"load": 100.0, "growth": 140.0}
    return {"machine": {**MACHINE, **machine}, "quick": quick, "seconds": seconds, "rows": lines}


@pytest.mark.parametrize("name", [*SUITES, *GPU_SUITES])
def test_every_suite_is_explained(name):
    assert f"`{name}`" in PAGE.partition("## Results")[0]


def test_the_text_says_what_the_code_does():
    assert f"1 query and {CANDIDATES} candidates" in WORDS
    kilobytes = sum(len(photograph(number)) for number in range(DIFFERENT)) / DIFFERENT / 1000
    assert f"{SIZE[0]} x {SIZE[1]} pixels ({kilobytes:.0f} KB)" in WORDS
    assert f"deadline of {DEADLINE_S:g} s" in WORDS
    assert "{:g}, {:g}, {:g} and {:g} times".format(*LOADS) in WORDS
    assert f"at least {GOODPUT_AIM:g}" in WORDS
    assert f"{CACHE_BYTES // 2**20} MiB of activations" in WORDS


def test_tables_have_rows_of_every_suite():
    results = PAGE.partition("<!-- generated: results -->")[2].partition("<!-- end -->")[0]
    lines = [line for line in results.splitlines() if line.startswith("| `")]
    shown = set()
    for line in lines:
        cells = re.split(r"(?<!\\)\|", line)[1:-1]
        assert len(cells) == 6, line
        shown.add(cells[0].strip(" `"))
    assert set(SUITES) <= shown <= {**SUITES, **GPU_SUITES}.keys()


def test_results_take_the_place_of_those_before_and_nothing_else_changes():
    fast = Row("a | b", 0.001, 0.3, "s", 300.0, 250.0, "higher", "of 3")
    slow = Row("memory", 2.0, 1.0, "GB", 2.0, 1.05, "lower")
    free = Row("free", 5.0, 4.0, "answers/s", 1.25, None, "higher")
    before = "x\n<!-- generated: results -->\nold\n<!-- end -->\ny\n"

    page = filled(before, [document(fast, slow), document(free, quick=True, gpu="G")])

    head = "| suite | what | ours | baseline | ratio | aim |\n|---|---|---:|---:|---:|---:|\n"
    versions = "torch threads: 2, torch 2.15.0, timm 1.0.31, Python 3.12.1"
    assert page == (
        "x\n<!-- generated: results -->\n\n"
        f"### A, 2 cores\n\n{versions}, a whole run of 4 minutes.\n\n{head}"
        "| `load` | a \\| b (of 3) | 1 ms | 300 ms | 300 | ≥ 250 |\n"
        "| `load` | memory | 2 GB | 1 GB | 2 | ≤ 1.05, **missed** |\n"
        f"\n### G\n\nA, 2 cores, {versions}, a quick run of 4 minutes.\n\n{head}"
        "| `load` | free | 5 answers/s | 4 answers/s | 1.25 |  |\n"
        "\n<!-- end -->\ny\n"
    )
    assert filled(page, [document(fast)]).count("###") == 1
