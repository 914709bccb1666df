"""The page of methods: every method is on it, drawn, and told as the code has it."""

import importlib
import re
from pathlib import Path

import pytest
from PIL import Image

from pairlens_server.demo.pairs import PICTURES
from pairlens_server.methods.parameters import Parameter

DOCS = Path(__file__).parents[2] / "docs"
MAX_WIDTH = 1200
MAX_BYTES = 4_000_000

TEXT = (DOCS / "methods.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^### (\w+)\n(.*?)(?=^##|\Z)", TEXT, re.DOTALL | re.MULTILINE))
SHOWN = re.findall(r"!\[(.+?)\]\((.+?)\)", TEXT)


@pytest.fixture(scope="module", autouse=True)
def _scripts_can_be_imported():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(DOCS)  # as `python docs/draw_methods.py` has it
        yield


@pytest.fixture(scope="module")
def page():
    return importlib.import_module("methods.page")


@pytest.fixture(scope="module")
def figures():
    return importlib.import_module("methods.figures")


@pytest.fixture(scope="module")
def facts(page):
    return page.demo_facts()


def test_every_method_has_a_section_with_a_picture(page):
    missing = page.catalogue().keys() - SECTIONS.keys()
    assert not missing
    assert list(SECTIONS) == list(page.catalogue())
    for name, section in SECTIONS.items():
        assert f"<!-- generated: {name} -->" in section, name
        assert f"](methods/{name}.jpg)" in section, name
        assert "**Tells**" in section, name
        assert "**Misleads**" in section, name


def test_the_generated_parts_are_what_the_code_says(page, facts):
    fresh = page.filled(TEXT, facts)
    assert fresh == TEXT, "run `python docs/draw_methods.py --text`"


def test_a_stale_part_is_renewed_and_the_hand_written_text_is_kept(page, facts):
    stale = "before\n<!-- generated: occlusion -->\nold\n<!-- end -->\nafter\n"
    fresh = page.filled(stale, facts)
    assert fresh.startswith("before\n<!-- generated: occlusion -->\nHow far the score falls")
    assert fresh.endswith("\n<!-- end -->\nafter\n")
    assert "old" not in fresh
    # 16 x 16 and 8 x 8 cells, and the picture itself.
    assert "demo-vit 257; demo-resnet 65." in fresh
    assert "| `window` | demo-vit: int, 1 to 16; demo-resnet: int, 1 to 8 | `1` |" in fresh
    refused = page.filled(stale.replace("occlusion", "rollout"), facts)
    assert re.search(r"demo-vit [\d.]+; demo-resnet refuses: a ResNet has no attention\.", refused)


def test_a_block_of_no_method_is_refused(page):
    with pytest.raises(KeyError, match="no_method"):
        page.filled("<!-- generated: no_method -->\n<!-- end -->", {})


@pytest.mark.parametrize(
    ("bounds", "text"),
    [
        ({}, "float"),
        ({"minimum": 0, "maximum": 10}, "float, 0 to 10"),
        ({"above": 0, "maximum": 1}, "float, more than 0 to 1"),
        ({"minimum": 0, "below": 1}, "float, 0 to less than 1"),
        ({"minimum": 2}, "float, at least 2"),
        ({"above": 0}, "float, more than 0"),
        ({"maximum": 3}, "float, at most 3"),
    ],
)
def test_ranges_say_which_ends_belong_to_them(page, bounds, text):
    assert page.values_text(Parameter("p", "float", None, "", **bounds)) == text


def test_every_picture_exists_and_is_shown(figures):
    shown = [path for _, path in SHOWN]
    assert len(set(shown)) == len(shown)
    assert set(shown) == {f"methods/{name}.jpg" for name in figures.FIGURES}
    assert set(shown) == {f"methods/{path.name}" for path in (DOCS / "methods").glob("*.jpg")}


def test_pictures_are_small_and_show_something():
    sizes = []
    for _, path in SHOWN:
        sizes.append((DOCS / path).stat().st_size)
        picture = Image.open(DOCS / path)
        assert picture.mode == "RGB", path
        assert 600 < picture.width <= MAX_WIDTH, path
        assert len(picture.getcolors(maxcolors=1 << 24)) > 5000, path
    assert sum(sizes) < MAX_BYTES


def test_the_photographs_are_attributed():
    assert "Caltech-101" in TEXT
    assert "[CC BY 4.0](https://creativecommons.org/licenses/by/4.0/)" in TEXT
    assert (DOCS / "../server/pairlens_server/demo/pictures/ATTRIBUTION.md").is_file()


def test_the_regions_of_correspondence_lie_in_their_photographs(figures):
    for kind, box in figures.REGIONS.items():
        width, height = Image.open(PICTURES / figures.PHOTOS[kind][0]).size
        assert 0 <= box.left < box.right <= width, kind
        assert 0 <= box.top < box.bottom <= height, kind


def test_links_into_the_page_lead_to_headings():
    headings = re.findall(r"^#+ (.+)$", TEXT, re.MULTILINE)
    anchors = {heading.lower().replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#([\w-]+)\)", TEXT)) <= anchors
