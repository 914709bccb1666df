"""The shell of a report: style, and pieces of HTML that need no script and no network."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

_STYLE = """
:root { --ink: #222226; --faint: #62626b; --line: #dcdce2; --soft: #f6f6f8; --blue: #0072b2; }
* { box-sizing: border-box; }
html { scroll-behavior: smooth; }
body { margin: 0 auto; max-width: 1280px; padding: 24px 28px 64px; color: var(--ink);
  background: #fff; font: 15px/1.5 "Helvetica Neue", Arial, "Liberation Sans", sans-serif; }
h1 { font-size: 26px; line-height: 1.25; margin: 0 0 4px; }
h2 { font-size: 20px; margin: 32px 0 10px; padding-top: 12px; border-top: 2px solid var(--ink); }
h3 { font-size: 16px; margin: 28px 0 6px; overflow-wrap: anywhere; }
h3 .after { font-weight: 400; font-size: 14px; font-variant-numeric: tabular-nums; }
h4 { font-size: 13px; margin: 0 0 6px; color: var(--faint); font-weight: 600; }
p { margin: 8px 0; max-width: 116ch; }
a { color: var(--blue); }
code, pre { font: 13px/1.45 ui-monospace, Menlo, Consolas, "Liberation Mono", monospace; }
pre { background: var(--soft); padding: 12px; overflow-x: auto; }
nav { margin: 14px 0 0; font-size: 14px; }
nav a { margin-right: 18px; white-space: nowrap; }
.faint { color: var(--faint); }
.notice { background: #fff4e5; border-left: 4px solid #d55e00; padding: 8px 14px; }
.facts { display: grid; grid-template-columns: repeat(auto-fill, minmax(200px, 1fr));
  gap: 8px 24px; margin: 14px 0; }
.facts dt { font-size: 12px; color: var(--faint); }
.facts dd { margin: 0; overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 4px; margin: 12px 0; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
caption { text-align: left; padding: 8px 12px; color: var(--faint); font-size: 13px; }
th, td { padding: 7px 12px; text-align: left; vertical-align: top; line-height: 1.3; }
thead th { border-bottom: 1.5px solid var(--ink); vertical-align: bottom; font-size: 13px;
  background: #fff; }
tbody tr + tr > * { border-top: 1px solid var(--line); }
tbody.controls { border-top: 2px solid var(--ink); }
tbody.controls > tr > * { background: #f1f1f4; }
tbody th { font-weight: 400; background: #fff; }
.ranking thead th { min-width: 104px; }
.ranking thead th.short { min-width: 0; }
.ranking th.name { position: sticky; left: 0; min-width: 200px; max-width: 300px;
  padding-left: 26px; overflow-wrap: break-word; box-shadow: 1px 0 0 var(--line); z-index: 1; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
thead .number { white-space: normal; }
.headline { background: #eef5fa; }
tbody.controls > tr > .headline { background: #e6ebf0; }
.interval { display: block; color: var(--faint); font-size: 12px; }
.mark { display: inline-block; width: 1.7em; text-align: left; color: var(--faint); font-size: 12px;
  padding-left: 3px; }
.best { font-weight: 700; }
.key { display: inline-block; width: 10px; height: 10px; margin: 0 6px 0 -16px;
  border-radius: 2px; }
figure { margin: 14px 0; }
figcaption { font-size: 13px; color: var(--faint); max-width: 124ch; overflow-wrap: anywhere; }
.plot { display: block; max-width: 100%; height: auto; }
.row { border-top: 1px solid var(--line); padding-bottom: 20px; }
.case, .kinds > div { break-inside: avoid; }
.kinds { display: grid; grid-template-columns: repeat(3, 1fr); gap: 20px; }
.cases { display: flex; flex-wrap: wrap; gap: 12px; }
.case { margin: 0; }
.pictures { display: flex; gap: 6px; }
.picture { margin: 0; width: 186px; }
.picture img { display: block; max-width: 186px; max-height: 186px; width: auto; height: auto; }
.case > figcaption { max-width: 378px; margin-top: 4px; line-height: 1.35; color: var(--ink); }
.case.single > figcaption { max-width: 186px; }
.picture figcaption { font-size: 12px; line-height: 1.3; }
.missing { width: 186px; min-height: 110px; padding: 10px; background: #f4f0ee; color: #962814;
  font-size: 12px; overflow-wrap: anywhere; }
.scale { display: inline-block; width: 120px; height: 11px; vertical-align: -1px; margin: 0 6px;
  border: 1px solid var(--line); }
details { margin: 12px 0; }
summary { cursor: pointer; font-weight: 600; }
.glossary dt { font-weight: 600; margin-top: 12px; }
.glossary dd { margin: 0; max-width: 116ch; }
@media (max-width: 1000px) { .kinds { grid-template-columns: 1fr; } }
@page { size: A4 landscape; margin: 12mm; }
@media print {
  body { max-width: none; padding: 0; font-size: 11px; }
  nav { display: none; }
  .scroll { overflow: visible; border: 0; }
  .ranking { font-size: 8px; }
  .ranking th.name, .ranking thead th, .ranking td { padding: 3px; min-width: 0; font-size: 7px; }
  .ranking .interval, .ranking .mark { font-size: 6px; }
  .ranking tr > th.name { position: static; padding-left: 14px; }
  .ranking .key { width: 7px; height: 7px; margin: 0 4px 0 -11px; }
  figure, tr { break-inside: avoid; }
  * { -webkit-print-color-adjust: exact; print-color-adjust: exact; }
}
"""


def page(title: str, body: Iterable[str]) -> str:
    """A whole document.

    Args:
        title: Plain text.
        body: HTML.
    """
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            f"<title>{escape(title)}</title>",
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<style>{_STYLE}</style>",
            "</head>",
            "<body>",
            *body,
            "</body>",
            "</html>",
            "",
        ]
    )


def section(anchor: str, title: str, content: Iterable[str]) -> str:
    """A part of the document with a heading (plain text) that links can lead to."""
    parts = [f'<section id="{anchor}">', f"<h2>{escape(title)}</h2>", *content, "</section>"]
    return "\n".join(parts)


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph of plain text; `kind`: "faint" or "notice"."""
    named = f' class="{kind}"' if kind else ""
    return f"<p{named}>{escape(text)}</p>"


def figure(content: str, caption: str) -> str:
    """HTML with a caption of plain text."""
    return f"<figure>\n{content}\n<figcaption>{escape(caption)}</figcaption>\n</figure>"


def details(summary: str, content: str) -> str:
    """HTML that opens on a click on the summary, which is plain text."""
    return f"<details>\n<summary>{escape(summary)}</summary>\n{content}\n</details>"


def facts(items: Sequence[tuple[str, str]]) -> str:
    """Short names and values, plain text, in columns."""
    pairs = [f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in items]
    return "\n".join(['<dl class="facts">', *pairs, "</dl>"])


def table(head: Sequence[str], lines: Sequence[Sequence[str]], caption: str) -> str:
    """A table of plain text; the first cell of a line is its heading."""
    rows = []
    for first, *others in lines:
        cells = "".join(f"<td>{escape(cell)}</td>" for cell in others)
        rows.append(f'<tr><th scope="row">{escape(first)}</th>{cells}</tr>')
    heads = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    return "\n".join(
        [
            '<div class="scroll"><table>',
            f"<caption>{escape(caption)}</caption>",
            f"<thead><tr>{heads}</tr></thead>",
            "<tbody>",
            *rows,
            "</tbody>",
            "</table></div>",
        ]
    )
