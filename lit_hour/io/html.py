"""Build self-contained HTML pages: one style, and no link to anything outside the page.

`html_page` assembles a page from parts. Parts and table cells are HTML: escape plain text with
`html.escape` first.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape

STYLE = """
body { font: 15px/1.45 sans-serif; margin: 2em auto; max-width: 1040px; padding: 0 1em;
  color: #222; background: #fff }
h1, h2 { font-weight: 600 } h2 { margin-top: 2em }
table { border-collapse: collapse; width: 100% }
td, th { border-top: 1px solid #ddd; padding: .4em .6em; text-align: left; vertical-align: top }
td.number, th.number { text-align: right; white-space: nowrap }
figure { display: inline-block; margin: .3em .3em 0 0; font-size: 12px; color: #555 }
img { display: block }
.correct { font-weight: 600; color: #0a7a3d } .small { color: #555; font-size: 13px }
"""


def html_page(title: str, parts: Iterable[str], style: str = "", script: str = "") -> str:
    """Return a whole page.

    Args:
        title: plain text; the page's title and its heading.
        parts: HTML of the body below the heading.
        style: CSS that this page needs besides `STYLE`.
        script: JavaScript that runs after the body is loaded.
    """
    name = escape(title)
    head = f'<meta charset="utf-8"><title>{name}</title><style>{STYLE}{style}</style>'
    scripts = [f"<script>{script}</script>"] if script else []
    return "\n".join(
        (
            f'<!DOCTYPE html><html lang="en"><head>{head}</head>',
            f"<body><h1>{name}</h1>",
            *parts,
            *scripts,
            "</body></html>\n",
        )
    )


def html_table(
    rows: Iterable[Sequence[str]], header: Sequence[str] = (), num_text_columns: int | None = None
) -> str:
    """Return a table.

    Args:
        rows: HTML of the cells.
        header: HTML of the head cells; no head row if empty.
        num_text_columns: the columns after this many are numbers, aligned right; None for none.
    """

    def row_html(cells: Sequence[str], tag: str) -> str:
        num_text = len(cells) if num_text_columns is None else num_text_columns
        opening = [tag] * num_text + [f'{tag} class="number"'] * (len(cells) - num_text)
        cells_html = (
            f"<{start}>{cell}</{tag}>" for start, cell in zip(opening, cells, strict=False)
        )
        return f"<tr>{''.join(cells_html)}</tr>"

    lines = [row_html(header, "th")] if header else []
    lines += [row_html(row, "td") for row in rows]
    return "<table>" + "\n".join(lines) + "</table>"


def html_options(options: Iterable[tuple[str, str, bool]]) -> str:
    """Return the options of a multiple-choice question, one per line, the correct one marked.

    Args:
        options: label, text (both plain text) and whether the option is the correct answer.
    """
    return "<br>".join(
        f'<span class="{"correct" if is_correct else ""}">{escape(label)}. {escape(text)}</span>'
        for label, text, is_correct in options
    )


def image_data_uri(image: bytes, media_type: str) -> str:
    """Return an encoded image as a `data:` URI for `<img src>`; `media_type` as in `image/png`."""
    return f"data:{media_type};base64,{base64.b64encode(image).decode('ascii')}"
