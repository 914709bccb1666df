"""What stands in a page of Markdown: its commands, headings, links, and the names that it uses."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^(#+) (.+)$", re.MULTILINE)
_LINK = re.compile(r"\]\(([^)\s]+)\)")


@dataclass(frozen=True)
class Block:
    """A block of code.

    Attributes:
        heading: The last heading of the second level before it.
        language: As the block says; "" when it does not.
        code: What it holds.
    """

    heading: str
    language: str
    code: str


def without_blocks(text: str) -> str:
    """The page's prose: a comment in a block is no heading."""
    return _FENCE.sub("", text)


def blocks(text: str) -> list[Block]:
    """All blocks of code, in order."""
    found = []
    for match in _FENCE.finditer(text):
        before = _HEADING.findall(without_blocks(text[: match.start()]))
        heading = next((title for marks, title in reversed(before) if marks == "##"), "")
        found.append(Block(heading, match[1], match[2]))
    return found


def headings(text: str, level: int) -> list[str]:
    """Titles of a level, in order."""
    return [title for marks, title in _HEADING.findall(without_blocks(text)) if len(marks) == level]


def section(text: str, title: str) -> str:
    """What stands below a heading, up to the next one of its level or above."""
    start = re.search(rf"^(#+) {re.escape(title)}$", text, re.MULTILINE)
    assert start is not None, title
    rest = text[start.end() :]
    for match in _HEADING.finditer(rest):
        in_a_block = rest[: match.start()].count("```") % 2
        if len(match[1]) <= len(start[1]) and not in_a_block:
            return rest[: match.start()]
    return rest


def anchor(title: str) -> str:
    """Where a link finds a heading, as GitHub has it."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def broken_links(page: Path) -> Iterator[str]:
    """Links of a page, pictures included, to files or headings that are not there."""
    text = without_blocks(page.read_text(encoding="utf-8"))
    for link in _LINK.findall(text):
        if link.startswith(("http://", "https://")):
            continue
        path, _, place = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists():
            yield link
        elif place:
            titles = [
                title for _, title in _HEADING.findall(without_blocks(target.read_text("utf-8")))
            ]
            if place not in map(anchor, titles):
                yield link


def code_spans(text: str) -> list[str]:
    """What stands `so` in the prose."""
    return re.findall(r"`([^`]+)`", without_blocks(text))
