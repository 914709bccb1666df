"""What is said of files that are no YAML, and what is not."""

from __future__ import annotations

import pytest

from pairlens_server.errors import ConfigurationError
from pairlens_server.yaml_file import parse_yaml, read_yaml


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: b: c", "line 1: mapping values are not allowed here"),
        ("a: [1,\nb", "line 2: expected ',' or ']', but got '<stream end>'"),
        ("a:\n\t- b", r"line 2: found character '\t' that cannot start any token"),
        ("a: @b", "line 1: found character '@' that cannot start any token"),
        ("a: 'b", "line 1: found unexpected end of stream"),
    ],
)
def test_where_and_what(text, said):
    with pytest.raises(ConfigurationError) as refused:
        parse_yaml(text.encode(), "server.yaml")
    assert str(refused.value) == f"server.yaml: no YAML: {said}"


@pytest.mark.parametrize(
    "text",
    [
        *("a: *s3cret", "a: !s3cret x", "a: !s3cret!s3cret x", "a: !<s3cret", "a: 's3cret"),
        *("%TAG !s3cret! x\n%TAG !s3cret! y\n---\n", 'a: "\\s3cret"', "{a: s3cret}}", "a: |s3cret"),
        *("&s3cret a: &s3cret b\n c", "a: *it's-s3cret", "s3cret: [", "a: `s3cret", "? [s3cret"),
        # Errors of other kinds than PyYAML's own.
        *(
            "s3cret: 2020-13-45",
            "- s3cret\n- " + "[" * 1500,
            "- s3cret\n- \x07",
            "s3cret: !!int s3cret",
        ),
        *(
            "- !!int s3cret",
            "- !!float s3cret",
            "- !!timestamp s3cret",
            "- !!binary s3cret",
            "{[s3cret]: 1}",
        ),
    ],
)
def test_nothing_that_stands_there(text):
    with pytest.raises(ConfigurationError) as refused:
        parse_yaml(text.encode(), "server.yaml")
    assert str(refused.value).startswith("server.yaml: no YAML")
    assert "3cret" not in str(refused.value)
    assert str(refused.value).isprintable()


def laughs(levels: int) -> str:
    """Ten of ten of ten ..."""
    lines = [f"a0: &a0 [{', '.join('x' * 10)}]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    "text",
    [
        laughs(9),
        "a0: &a0 {x: 1}\n"
        + "\n".join(f"a{n}: &a{n}\n  <<: [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)),
        "&a [*a]",
        "a: &a {b: {c: *a}}",
    ],
)
def test_aliases_of_aliases(text):
    """Some hundred characters that took all memory of whoever looked at what they stand for."""
    with pytest.raises(ConfigurationError, match=r"^server\.yaml: holds itself, or more than "):
        parse_yaml(text.encode(), "server.yaml")


def test_aliases_and_merges():
    text = "a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: [*a, *a]\n" + laughs(4).replace("a", "d")
    found = parse_yaml(text.encode(), "server.yaml")
    assert found["b"] == {"x": 1, "y": 3}
    assert found["c"] == [{"x": 1, "y": 2}] * 2
    assert found["d3"][9][9][9] == ["x"] * 10
    assert parse_yaml(b"", "server.yaml") is None


def test_files(tmp_path):
    path = tmp_path / "server.yaml"
    path.write_text("a: [1, x]\n")
    assert read_yaml(path) == {"a": [1, "x"]}
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationError, match=r"^server\.yaml: no UTF-8$"):
        read_yaml(path)
    with pytest.raises(ConfigurationError, match=r"^none\.yaml: No such file or directory$"):
        read_yaml(tmp_path / "none.yaml")
