"""The parts of a page. Every text that comes from outside is escaped here."""

from base64 import b64encode
from collections.abc import Iterator, Mapping
from html import escape
from io import BytesIO

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from scldm.pl._table import ALL, BETTER, reading

__all__ = ["definitions", "figure", "group_tables", "score_table", "section", "summary"]

DPI = 160
CSS_DPI = 96
MARKS: Mapping[str, str] = {
    "within": "≈",
    "beyond": "▲ beyond",
    "worse": "▼ worse",
    "": "",
}


def section(title: str, text: str) -> str:
    """A heading and what follows it.

    Parameters
    ----------
    title
        Plain text.
    text
        HTML.
    """
    return f"<section>\n<h2>{escape(title)}</h2>\n{text}\n</section>"


def figure(title: str, caption: str, axes: Axes | list[Axes] | None) -> str:
    """A figure in the page itself, which is closed.

    Parameters
    ----------
    title, caption
        Plain text.
    axes
        All or some of its axes.
    """
    first = axes[0] if isinstance(axes, list) else axes
    assert first is not None
    drawn = first.figure.canvas.figure
    width, height = (round(inches * CSS_DPI) for inches in drawn.get_size_inches())
    buffer = BytesIO()
    drawn.savefig(buffer, format="png", dpi=DPI)
    plt.close(drawn)
    data = b64encode(buffer.getvalue()).decode("ascii")
    return (
        f'<figure><img width="{width}" height="{height}" alt="{escape(title)}" '
        f'src="data:image/png;base64,{data}">'
        f"<figcaption><b>{escape(title)}.</b> {escape(caption)}</figcaption></figure>\n"
    )


def definitions(values: Mapping[str, object]) -> str:
    """A list of names and values, or nothing if there are none."""
    items = (
        f"<dt>{escape(str(name).replace('_', ' '))}</dt>"
        f"<dd>{_number(value) if isinstance(value, float) else escape(str(value))}</dd>"
        for name, value in values.items()
    )
    return f"<dl>{''.join(items)}</dl>" if values else ""


def summary(scores: pd.DataFrame) -> str:
    """How many scores of each source are those of real cells, and how to read them.

    Parameters
    ----------
    scores
        From :func:`~scldm.pl._table.judged`.
    """
    lines = []
    for source, own in _by_source(scores[scores["group"] == ALL]):
        n = own["verdict"].value_counts()
        lines.append(
            f"<p><b>{escape(source)}</b>: of {len(own)} scores, {n.get('within', 0)} are as those "
            f"of real cells, {n.get('worse', 0)} worse, {n.get('beyond', 0)} beyond them.</p>\n"
        )
    how = (
        "The floor is what real cells reach in the place of generated ones; no generator can be "
        "asked for more. A score is as that of real cells (≈) where the 95% interval of its "
        "difference from the floor, with the same test cells on both sides, holds zero. Scores "
        "beyond it are no triumph: cells with less noise than real ones have them, and copies of "
        "the test cells."
    )
    return "".join(lines) + f'<p class="quiet">{how}</p>\n'


def score_table(scores: pd.DataFrame) -> str:
    """The scores of all cells: a row for each metric, a column for each source and the floor.

    Parameters
    ----------
    scores
        From :func:`~scldm.pl._table.judged`.
    """
    rows = scores[scores["group"] == ALL]
    lines = []
    for metric, own in rows.groupby("metric", sort=False):
        name, first = reading(str(metric)), own.iloc[0]
        cells = [f'<td class="number">{_score(row)}</td>' for _, row in own.iterrows()]
        floor = _number(first["value_floor"]) + _interval(first["low_floor"], first["high_floor"])
        lines.append(
            f"<th>{escape(name.label)}<code>{escape(str(metric))}</code></th>"
            f'{"".join(cells)}<td class="number">{floor}</td>'
            f'<td class="meaning">{escape(name.meaning)}'
            f"<small>{BETTER.get(first['better'], '')}</small></td>"
        )
    sources = [source for source, _ in _by_source(rows)]
    return _table(["Score", *sources, "Floor", "Meaning"], lines)


def group_tables(scores: pd.DataFrame) -> str:
    """For each source a table with a row for each group; nothing if there are no groups.

    Parameters
    ----------
    scores
        From :func:`~scldm.pl._table.judged`.
    """
    tables = []
    rows = scores[scores["group"] != ALL]
    metrics = rows["metric"].unique().tolist()
    for source, own in _by_source(rows):
        lines = []
        for group, scored in own.groupby("group", sort=False):
            scored = scored.set_index("metric").reindex(metrics)
            notes = scored["note"].dropna().unique()
            if scored["value"].isna().all() and len(notes) == 1:
                cells = f'<td class="quiet" colspan="{len(metrics)}">{escape(notes[0])}</td>'
            else:
                cells = "".join(
                    f'<td class="number">{_score(row)}<small>floor '
                    f"{_number(row['value_floor'])}</small></td>"
                    for _, row in scored.iterrows()
                )
            lines.append(f"<th>{escape(str(group))}</th>{cells}")
        names = [reading(metric).label for metric in metrics]
        tables.append(f"<h3>{escape(source)}</h3>\n" + _table(["Group", *names], lines))
    return "".join(tables)


def _by_source(scores: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    for source, own in scores.groupby("source", sort=False):
        yield str(source), own


def _table(heads: list[str], lines: list[str]) -> str:
    """A table that scrolls by itself where the page is narrow.

    Parameters
    ----------
    heads
        Headings of the columns, plain text.
    lines
        HTML of the cells of each row.
    """
    head = "".join(f"<th>{escape(text)}</th>" for text in heads)
    body = "\n".join(f"<tr>{line}</tr>" for line in lines)
    return (
        f'<div class="scroll"><table>\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody>\n</table></div>\n"
    )


def _score(row: pd.Series) -> str:
    """A value with its interval and its mark, or why there is none."""
    if pd.isna(row["value"]):
        note = row.get("note")
        return f"–<small>{escape(note) if isinstance(note, str) else ''}</small>"
    mark = f'<span class="{row["verdict"]}">{MARKS[row["verdict"]]}</span> '
    return mark + _number(row["value"]) + _interval(row["low"], row["high"])


def _interval(low: float, high: float) -> str:
    if pd.isna(low) or pd.isna(high):
        return ""
    return f"<small>[{_number(low)}, {_number(high)}]</small>"


def _number(value: float) -> str:
    """Three digits, with a true minus sign."""
    if pd.isna(value):
        return "–"
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:#.3g}".rstrip(".")
    return text.replace("-", "−")
