"""The page of metrics: everything is on it, and told as the code has it."""

import importlib
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pairlens import cli
from pairlens.evaluation.controls import CONTROL_NAMES
from pairlens.evaluation.image_metrics import CLEAN_MEASURE
from pairlens.evaluation.mosaic_protocol import MEASURES
from pairlens.evaluation.pair_measures import DEFAULT_FRACTIONS, SUBSTRATES, pair_measures
from pairlens.evaluation.pair_scores import MINIMUM_SPAN
from pairlens_server.fidelity import curves
from pairlens_server.fidelity.copies import Side
from pairlens_server.fidelity.erasures import DEFAULT_STEPS, REFERENCE_STEP, Deletion, Insertion
from pairlens_server.fidelity.metrics import ErasureMetric
from pairlens_server.fidelity.placing import Enlargement
from pairlens_server.fidelity.substrates import Filling, Substrate, reference_taps
from pairlens_server.methods.parameters import Profile
from pairlens_server.service.limits import ServiceLimits

DOCS = Path(__file__).parents[2] / "docs"
TEXT = (DOCS / "metrics.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^### ([^\n]+)\n(.*?)(?=^##|\Z)", TEXT, re.DOTALL | re.MULTILINE))


@pytest.fixture(scope="module", autouse=True)
def _scripts_can_be_imported():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(DOCS)  # as `python docs/draw_metrics.py` has it
        yield


@pytest.fixture(scope="module")
def page():
    return importlib.import_module("metrics_page.page")


def plain(text: str) -> str:
    """Lines joined, so that a sentence is found however it is wrapped."""
    return " ".join(text.split())


def test_every_metric_has_a_section(page):
    for name in page.catalogue():
        section = SECTIONS[name]
        assert f"<!-- generated: {name} -->" in section
        for word in ("**Formula**", "**Range**", "- **Source**", "- **Better**", "- **Cost"):
            assert word in section or (name == "insertion" and word == "**Range**"), (name, word)


def test_the_generated_parts_are_what_the_code_says(page):
    assert page.filled(TEXT) == TEXT, "run `python docs/draw_metrics.py --text`"
    found = re.findall(r"<!-- generated: (\w+) -->", TEXT)
    others = ["overview", "sharing", "pairfaith", "mosaics", "controls"]
    assert sorted(found) == sorted([*page.catalogue(), *others])


def test_a_stale_part_is_renewed_and_the_hand_written_text_is_kept(page):
    stale = "before\n<!-- generated: pointing_game -->\nold\n<!-- end -->\nafter\n"
    fresh = page.filled(stale)
    assert fresh.startswith("before\n<!-- generated: pointing_game -->\n1 where the map's largest")
    assert fresh.endswith("\n<!-- end -->\nafter\n")
    assert "| `tolerance` | float, at least 0 | `0.0` |" in fresh
    assert "old" not in fresh
    with pytest.raises(KeyError, match="no_metric"):
        page.filled("<!-- generated: no_metric -->\n<!-- end -->")


def test_passes_are_counted_as_they_are_shared(page):
    assert page.passes([Deletion()]) == 65
    assert page.passes([Deletion(), Deletion()]) == 65
    # The clean picture, 63 between and the filled one; the substrates differ.
    assert page.passes([Deletion(), Insertion()]) == 129
    assert page.passes([Deletion()], pictures=2) == 130


def test_everything_that_can_be_chosen_is_named(page):
    substrates = [substrate.value for substrate in Substrate]
    assert sorted(SUBSTRATES) == sorted(substrates)
    names = [*substrates, "strict", "reference", *(side.value for side in Side)]
    names += [enlargement.value for enlargement in Enlargement]
    names += [measure.name for measure in (*pair_measures(("blur",)), *MEASURES, CLEAN_MEASURE)]
    names += [*CONTROL_NAMES, "images", "pairs", "mosaics", "pair mosaics"]
    names += [
        parameter.name
        for metric in page.catalogue().values()
        for parameter in metric.parameters(page.BOARD)
    ]
    missing = [name for name in names if f"`{name}`" not in TEXT]
    assert not missing


def test_the_kernel_of_the_thesis_has_the_numbers_of_the_page():
    taps = reference_taps()
    kernel = np.outer(taps, taps)
    for weight in (kernel[5, 5], kernel[0, 5], kernel[0, 0]):
        assert f"{weight:.6f}".lstrip("0") in TEXT
    gaussian = np.exp(-0.5 * (np.arange(-5, 6) / 5) ** 2)
    gaussian /= gaussian.sum()
    for weight in (gaussian[5] ** 2, gaussian[0] ** 2):
        assert f"{weight:.5f}".lstrip("0") in TEXT
    # What of a pixel at the border is left of the picture.
    edge = taps[5:].sum()
    assert (
        f"at an edge are {100 * edge:.0f} % picture, those in a corner {100 * edge**2:.0f} %"
        in (plain(TEXT))
    )


def test_the_numbers_in_the_text_are_those_of_the_code():
    limits, text = ServiceLimits(), plain(TEXT)
    of_224, of_128 = (
        len(curves.boundaries(side * side, step_size=REFERENCE_STEP)) for side in (224, 128)
    )
    assert f"{DEFAULT_STEPS} of nearly equal size: {DEFAULT_STEPS + 1} points" in text
    assert f"{of_224} points on 224 x 224, {of_128} on 128 x 128" in text
    assert f"at most {limits.max_metrics} metrics and {limits.max_copies:,} passes" in text
    assert f"floor is below {MINIMUM_SPAN:g} the areas are undefined" in text
    assert (*np.round(np.arange(0.05, 0.51, 0.05), 2), 0.7, 0.9) == DEFAULT_FRACTIONS


def test_filled_pictures_are_equal_under_every_substrate_but_blur(page):
    assert "under every substrate but `blur` they are equal" in plain(TEXT)
    torch = pytest.importorskip("torch")
    pair = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    for substrate in Substrate:
        filling = Filling(substrate, (-2.0, -2.0, -2.0))
        ends = [filling.fill(picture, torch.ones(1, 8, 8, dtype=torch.bool)) for picture in pair]
        assert torch.equal(*ends) == (substrate is not Substrate.BLUR)


def test_the_default_substrates_are_the_same_under_both_profiles(page):
    for metric in page.catalogue().values():
        if issubclass(metric, ErasureMetric):
            found = {
                metric(profile).resolve(page.BOARD, "").substrate
                for profile in (Profile.STRICT, Profile.REFERENCE)
            }
            assert len(found) == 1


def test_figures_exist_and_are_those_that_are_drawn():
    figures = importlib.import_module("metrics_page.figures").FIGURES
    shown = re.findall(r"!\[.+?\]\(metrics/(.+?)\)", TEXT)
    assert sorted(shown) == sorted(figures)
    drawn = [path for path in (DOCS / "metrics").iterdir() if path.suffix in (".png", ".jpg")]
    assert sorted(path.name for path in drawn) == sorted(figures)
    for path in drawn:
        picture = Image.open(path)
        assert picture.mode == "RGB"
        assert 600 < picture.width <= 1200
        assert len(picture.getcolors(maxcolors=1 << 24)) > 200
        assert path.stat().st_size < 500_000


def test_links_lead_somewhere():
    for link in re.findall(r"\]\(([^)#]+?)\)", TEXT):
        assert link.startswith("https://") or (DOCS / link).exists(), link
    headings = re.findall(r"^#+ (.+)$", TEXT, re.MULTILINE)
    anchors = {heading.lower().replace(" ", "-").replace(",", "") for heading in headings}
    assert set(re.findall(r"\]\(#([\w-]+)\)", TEXT)) <= anchors


def test_the_python_example_uses_what_there_is():
    (example,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    compile(example, "metrics.md", "exec")
    imports = [line for line in example.splitlines() if line.startswith("from ")]
    assert imports
    exec("\n".join(imports), {})


def test_the_commands_are_taken():
    (block,) = re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)
    commands = block.splitlines()
    flags = set()
    for command in commands:
        program, *arguments = shlex.split(command)
        assert program == "pairlens"
        parsed = cli.build_parser().parse_args(arguments)
        flags.add((parsed.pairs, parsed.mosaics))
    assert len(flags) == 4
