"""Parts of the page as HTML: figures cut into panels, legends, lists. All text is escaped here."""

import base64
import html
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

from PIL import Image

from plasticity.training.reports.figures.drawing import Drawing, Style

_PIXELS_PER_INCH = 100
_WIDE = 6.5  # inches from which a panel has a line of its own in print
_MARKS = {  # as matplotlib's, around (17, 7)
    "o": '<circle cx="17" cy="7" r="3.4"/>',
    "s": '<path d="M13.7 3.7h6.6v6.6h-6.6z"/>',
    "^": '<path d="M17 3l4 7.4h-8z"/>',
    "D": '<path d="M17 2.6l4.2 4.4-4.2 4.4-4.2-4.4z"/>',
    "v": '<path d="M17 11l4-7.4h-8z"/>',
    "P": '<path d="M15.6 3h2.8v2.6H21v2.8h-2.6V11h-2.8V8.4H13V5.6h2.6z"/>',
    "X": '<path d="M13 4.4L14.4 3 17 5.6 19.6 3 21 4.4 18.4 7 21 9.6 19.6 11 17 8.4 14.4 11 13 9.6 15.6 7z"/>',
    "<": '<path d="M13 7l7.4-4v8z"/>',
    ">": '<path d="M21 7l-7.4-4v8z"/>',
    "*": '<path d="M17 2l1.4 3.6 3.8.2-3 2.4 1 3.7-3.2-2.1-3.2 2.1 1-3.7-3-2.4 3.8-.2z"/>',
    "h": '<path d="M17 3l3.5 2v4L17 11l-3.5-2V5z"/>',
}


def text(value: object) -> str:
    """Returns a text with what HTML reads as commands escaped."""
    return html.escape(str(value))


def paragraph(value: str, kind: str = "") -> str:
    """Returns a paragraph, of a class if one is named; nothing for no text."""
    return f'<p class="{kind}">{text(value)}</p>' if value and kind else f"<p>{text(value)}</p>" if value else ""


def bullets(values: Sequence[str], kind: str = "plain") -> str:
    """Returns a list; nothing for none."""
    return f'<ul class="{kind}">{"".join(f"<li>{text(value)}</li>" for value in values)}</ul>' if values else ""


def definitions(values: Mapping[str, str]) -> str:
    """Returns names and what they are."""
    return f'<dl class="settings">{"".join(f"<dt>{text(name)}</dt><dd>{text(each)}</dd>" for name, each in values.items())}</dl>'


def section(id: str, title: str, parts: Sequence[str]) -> str:
    """Returns a section with its heading; nothing if all parts are empty."""
    inside = "\n".join(part for part in parts if part)
    return (
        f'<section id="{id}" aria-labelledby="{id}-title">\n<h2 id="{id}-title">{text(title)}</h2>\n{inside}\n</section>'
        if inside
        else ""
    )


def picture(id: str, title: str, drawing: Drawing, png: bytes) -> str:
    """Returns a figure: its legend, its panels as images inside the page, its caption and links to its files."""
    files = f'Files: <a href="figures/{id}.png">PNG</a>, <a href="figures/{id}.pdf">PDF</a>, <a href="figures/{id}.csv">CSV</a>.'
    images = "".join(_images(drawing, png))
    return (
        f'<figure id="figure-{id}"><h3>{text(title)}</h3>{legend(drawing.legend)}<div class="panels">{images}</div>'
        f"<figcaption>{text(drawing.caption)} {files}</figcaption></figure>"
    )


def linked_picture(id: str, title: str, drawing: Drawing) -> str:
    """Returns a figure whose image stays outside, as the page would become too large."""
    alts = " ".join(panel.alt for panel in drawing.panels)
    return (
        f'<figure id="figure-{id}"><h3>{text(title)}</h3><p>This page would become too large with it: '
        f'<a href="figures/{id}.png">{text(alts)}</a></p><figcaption>{text(drawing.caption)}</figcaption></figure>'
    )


def legend(styles: Mapping[str, Style]) -> str:
    """Returns a line of names with the line and the marker that each is drawn with."""
    if not styles:
        return ""
    entries = []
    for name, style in styles.items():
        dash = (
            "" if isinstance(style.dash, str) else f' stroke-dasharray="{" ".join(f"{1.6 * each:g}" for each in style.dash[1])}"'
        )
        line = f'<line x1="0" y1="7" x2="34" y2="7" stroke="{style.colour}" stroke-width="2"{dash}/>'
        mark = f'<g fill="{style.colour}">{_MARKS[style.marker]}</g>'
        entries.append(f'<li><svg width="34" height="14" aria-hidden="true">{line}{mark}</svg>{text(name)}</li>')
    return f'<ul class="legend" aria-label="Legend">{"".join(entries)}</ul>'


def run_item(row: Mapping[str, Any], outcome: str, link: str) -> str:
    """Returns one run of the list of all runs."""
    words = f"<pre>{text(row['words'])}</pre>" if row["words"] else ""
    what = f"{row['condition']}, {row['method']}, seed {row['seed']}{row['repeat']}"
    return (
        f'<li>{text(what)}: <span class="state">{text(row["state"])}</span>, {text(row["reached"])} steps, {text(outcome)}'
        f"{text('; not counted: ' + row['why_not']) if row['why_not'] else ''} "
        f'(<a href="{text(link)}">folder</a>){words}</li>'
    )


def _images(drawing: Drawing, png: bytes) -> list[str]:
    with Image.open(BytesIO(png)) as whole:
        sheet = whole.convert("RGB")
    width, height = sheet.size
    found = []
    for panel in drawing.panels:
        left, top, right, bottom = panel.box
        part = sheet.crop((round(left * width), round(top * height), round(right * width), round(bottom * height)))
        file = BytesIO()
        part.save(file, format="PNG", compress_level=6)
        code = base64.b64encode(file.getvalue()).decode()
        pixels = panel.width * _PIXELS_PER_INCH
        size = f'width="{round(pixels)}" height="{round(pixels * part.height / part.width)}"'
        wide = ' class="wide"' if panel.width > _WIDE else ""
        found.append(f'<img{wide} alt="{text(panel.alt)}" {size} src="data:image/png;base64,{code}">')
    return found
