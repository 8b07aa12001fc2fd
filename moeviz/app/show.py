"""How pages show things: charts with their table, badges, downloads, exports, and text that stays text.

show.chart(lambda: shares.skew(trace), "skew", trace)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd
import streamlit as st

from moeviz import words
from moeviz.app import kept, window
from moeviz.charts import KINDS, Chart
from moeviz.core.run import Run
from moeviz.core.trace import Trace
from moeviz.files import exporters, library, moetrace
from moeviz.files.formulas import formula_safe

LOOKS = {
    "measured": ("blue", ":material/timer:"),
    "paced": ("blue", ":material/speed:"),
    "watched": ("orange", ":material/visibility:"),
    "replayed": ("gray", ":material/replay:"),
    "modelled": ("orange", ":material/function:"),
    "recorded": ("gray", ":material/description:"),
}
INK = {"light": "#3A4653", "dark": "#D5DDE5"}  # of a figure's text


def plain(text: str) -> str:
    """Text as text where Streamlit reads Markdown: what stands in a trace, a prompt or a file name must not
    become a link or a picture, nor turn what is written around it.

    A bare address becomes a link even where it is escaped, so an invisible word joiner breaks it.
    """
    joiner = "\u2060"
    broken = (
        words.harmless(text)
        .replace("://", joiner + "://")
        .replace("www.", "www" + joiner + ".")
        .replace("@", "@" + joiner)
    )
    return re.sub(r"([\\`*_{}\[\]()#+\-.!|~<>$:&])", r"\\\1", broken)


def badge(kind: str, link: str = "") -> None:
    """Where the numbers beside it come from; `link`: how fast the link was that they were timed over."""
    color, icon = LOOKS[kind]
    label = f"{kind}, link {link}" if link else kind
    st.badge(label, color=color, icon=icon, help=KINDS[kind])  # type: ignore[arg-type]


def verdict(good: bool, yes: str, no: str, help: str) -> None:
    """A check and what came of it."""
    icon = ":material/check:" if good else ":material/close:"
    st.badge(yes if good else no, color="green" if good else "red", icon=icon, help=help)


def screen() -> Any:
    """A page's first screen, in which charts take the height that the rest of it leaves."""
    return st.container(key="screen")


def head() -> Sequence[Any]:
    """Places for a page's title and controls, and for the text beside them; the text is below on a phone."""
    with st.container(key="head"):
        return st.columns(2)


def chart(make: Callable[[], Chart], key: str, *of: Any) -> None:
    """A chart: its heading with the badge of its numbers, its finding, the figure, and the table one click
    away. `make` draws it, and is not asked again while `of`, all that the chart depends on, is the same.
    """
    _show(_kept(lambda: [make()], key, of)[0], key)


def charts(make: Callable[[], Sequence[Chart]], key: str, *of: Any) -> None:
    """Charts in two columns; one alone, and the first of three, takes the whole width."""
    several = _kept(lambda: list(make()), key, of)
    wide = several[: len(several) % 2]
    for number, one in enumerate(wide):
        _show(one, f"{key}-{number}")
    columns = st.columns(2) if len(several) > 1 else ()
    for number, one in enumerate(several[len(wide) :], start=len(wide)):
        with columns[(number - len(wide)) % 2]:
            _show(one, f"{key}-{number}")


def _kept(make: Callable[[], list[Chart]], key: str, of: Sequence[Any]) -> list[Chart]:
    color = INK.get(st.context.theme.type or "light", INK["light"])
    return kept.drawn(key, of, color, window.larger(), make)


def _show(one: Chart, key: str) -> None:
    with st.container(gap=None, key=f"chart-{key}"):
        with st.container(horizontal=True, vertical_alignment="center", gap="small", key=f"heading-{key}"):
            st.subheader(plain(one.title), width="content", anchor=False, help=_terms(one))
            badge(one.kind)
            if not st.session_state.get("presenter"):
                _table(one.title, one.table, key)
        st.caption(plain(one.alt))
        st.plotly_chart(one.figure, height="stretch", key=key, alt=one.alt, config={"displaylogo": False})


def _terms(one: Chart) -> str | None:
    """What the words on a chart mean: of its title, its axes, its legend, its notes, its rows and its
    table.
    """
    figure = one.figure
    drawn = [
        figure.layout.xaxis.title.text,
        figure.layout.yaxis.title.text,
        *(mark.name for mark in figure.data),
        *(note.text for note in figure.layout.annotations),
        *(row for mark in figure.data if mark.type == "bar" for row in mark.y if isinstance(row, str)),
    ]
    return words.tooltip(one.title, *filter(None, drawn), *map(str, one.table.columns))


@st.fragment
def _table(title: str, rows: pd.DataFrame, key: str) -> None:
    """The table behind a chart, sent to the browser once it is asked for.

    In a dialog: what closes at a click on another page's link asks for its fragment again, and that page then
    stays empty.
    """

    def show() -> None:
        table(rows)
        download("CSV", lambda: csv(rows), f"{key}.csv", key=f"{key}-csv")

    if st.button("Table", icon=":material/table:", type="tertiary", key=f"{key}-table"):
        st.dialog(plain(title), width="medium")(show)()


def table(
    frame: pd.DataFrame,
    formats: Mapping[str, str] | None = None,
    widths: Mapping[str, int] | None = None,
    heads: Mapping[str, str] | None = None,
    **more: Any,
) -> Any:
    """A table whose headings say what their words mean; `formats`: of columns of numbers; `widths`: px, of
    columns of text; `heads`: short headings of columns of numbers, whose names are told with their words.
    """
    formats, widths, heads = formats or {}, widths or {}, heads or {}
    columns: dict[str, Any] = {
        name: st.column_config.NumberColumn(
            heads.get(name),
            format=formats[name],
            help=words.tooltip(name, more=f"{name}." if name in heads else ""),
        )
        if name in formats
        else st.column_config.Column(help=words.tooltip(name), width=widths.get(name))
        for name in map(str, frame.columns)
        if name in formats or name in widths or words.tooltip(name)
    }
    return st.dataframe(frame, hide_index=True, column_config=columns, **more)


def csv(table: pd.DataFrame) -> str:
    return formula_safe(table).to_csv(index=False)


def download(
    label: str,
    content: Callable[[], bytes | str],
    name: str,
    icon: str = "download",
    help: str | None = None,
    key: str | None = None,
) -> None:
    """A button that saves a file of that name. The file is made when it is asked for, and the page is not
    drawn again for it.
    """
    st.download_button(label, content, name, on_click="ignore", icon=f":material/{icon}:", help=help, key=key)


def exporter(name: str, trace: Trace, run: Callable[[], Run], own: Run | None, key: str) -> None:
    """A format and its download. `run` gives the run to write, when it is asked for; `own`, a measured run of
    the trace, gives times.
    """
    kinds = [kind for kind in exporters.EXPORTERS if kind != "perfetto" or (own is not None and own.measured)]
    file = library.safe_name(name.partition(": ")[2] or name)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        kind = st.selectbox("Format", kinds, key=f"format-{key}", width=220)
        suffix, what = exporters.EXPORTERS[kind].suffix, exporters.EXPORTERS[kind].what
        download(
            "Export",
            lambda: exporters.content(kind, trace, run(), own, f"{file}.moetrace"),
            file + suffix,
            key=f"export-{key}",
            icon="ios_share",
        )
        if kind == "notebook":
            download(
                "The trace it loads",
                lambda: moetrace.to_bytes(trace, own),
                f"{file}.moetrace",
                key=f"loads-{key}",
            )
    times = " A replay is drawn with costs fitted on the recorded run." if kind == "perfetto" else ""
    st.caption(f"{plain(file + suffix)}: {what}.{times}")


def not_recorded(what: str, way: str) -> None:
    """A designed state instead of a chart that cannot be: what the trace does not hold, and how to get it."""
    st.info(f"This trace holds no {what}, so there is nothing to show here. {way}", icon=":material/block:")
