import pytest

from pairlens._text import cut, drawable, width_of, wrap


@pytest.mark.parametrize(
    ("text", "drawn"),
    [
        ("plain", "plain"),
        ("two\n lines", "two lines"),
        ("Müller\u2019s café \u2013 Straße", "Muller's cafe - Strasse"),
        ("2 \u00d7 3 \u2192 6", "2 x 3 -> 6"),
        ("猫\x1b", "??"),
    ],
)
def test_only_what_the_font_has_is_drawn(text: str, drawn: str):
    assert drawable(text) == drawn


def test_cutting():
    text = "a rather long caption"
    width = width_of(text, 16)
    assert cut(text, 16, width) == text
    shorter = cut(text, 16, width - 1)
    assert shorter.endswith("...")
    assert width_of(shorter, 16) <= width - 1
    assert cut(text, 16, 0) == "..."


def test_wrapping():
    text = "one two three four five six"
    width = width_of("three four", 16)
    assert wrap(text, 16, width, 9) == ["one two", "three four", "five six"]
    assert wrap(text, 16, width, 2) == ["one two", cut("three four five six", 16, width)]
    assert wrap("", 16, width, 3) == []
    assert all(width_of(line, 16) <= 60 for line in wrap("incomprehensibilities of it", 16, 60, 5))
