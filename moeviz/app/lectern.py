"""The lecturer's part of a room: opens and closes it, shows the way in, the counts while they come, and the
button that reveals.

    if lectern.predicted(HALL.room, lesson, lambda: answer.right): ...
"""

from __future__ import annotations

import html
import socket
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import psutil
import segno
import streamlit as st

from moeviz.amounts import many
from moeviz.app import components, gate, seats
from moeviz.app.room import HALL, Bar, Room
from moeviz.app.show import plain
from moeviz.lessons import Guess, Lesson

DRAWER = "for_the_lecturer"
EVERY = 2.0  # seconds between two looks at the counts
STYLE = """<style>
.room-bars .bar { margin: 0 0 0.6rem; }
.room-bars .row { display: flex; justify-content: space-between; gap: 1rem; }
.room-bars .track { height: 0.8rem; border: 1px solid currentColor; border-radius: 0.3rem; overflow: hidden; }
.room-bars .track div { height: 100%; background: #56B4E9; transition: width 0.3s; }
.room-bars .right { font-weight: 700; }
.room-bars .right .track div { background: #009E73; }
.room-bars.short .row { padding-right: 0.75rem; white-space: nowrap; }
.room-bars.short .bar { display: grid; grid-template-columns: 8rem 1fr; align-items: center; margin: 0; }
.room-bars.short { line-height: 1.2; } /* ten of them, on a projector, without the last one fading */
@media (prefers-reduced-motion: reduce) { .room-bars .track div { transition: none; } }
</style>"""
SHORT = 12  # letters of a bar's text that stand beside it
WAY_IN = """<style>
.st-key-way-in svg { width: 100%; max-height: min(70vh, 44rem); }
.room-link { font-size: clamp(1.4rem, 2.2vw, 2rem); font-weight: 700; overflow-wrap: anywhere; }
</style>"""


def drawer() -> AbstractContextManager[Any]:
    """What is the lecturer's alone: opened by a button, closed when the room's card opens over it."""
    return st.popover(
        "For the lecturer",
        icon=":material/school:",
        help="The room" if st.session_state.presenter else "Sheets to print, and the room",
        key=DRAWER,
        on_change="rerun",  # so that it can be closed
    )


def control() -> None:
    """The button that opens the room, and the room's card once it is open; the command where the server was
    not started for it.
    """
    if not HALL.admits or st.get_option("server.address") not in gate.EVERYWHERE:
        st.markdown(
            "**The room**: your class predicts on its phones, and you see the counts and reveal. For that "
            "the server has to answer to the network that you and the class are in. Stop it (Ctrl+C) and "
            "start it with"
        )
        st.code(gate.COMMAND, language=None)
        st.markdown("Students then get the question of the lesson that you show, and nothing else.")
        return
    label = "Open the room" if HALL.room is None else "The room"
    if st.button(label, key="room", icon=":material/groups:", on_click=_open):
        _card()


def _open() -> None:
    st.session_state[DRAWER] = False
    HALL.open()
    sit_down()  # at once: without a tab it would never close


@st.dialog("Predict on your phone", width="large", icon=":material/groups:")
def _card() -> None:
    """The way in: for the wall, and to be typed."""
    room, several = HALL.room, addresses()
    if room is None:
        st.rerun()
    if not several:
        st.error("This computer is in no network. Join the one that your class is in, and open this anew.")
        return
    address = several[0]
    if len(several) > 1:
        address = st.selectbox(
            "Address of this computer", several, help="The one in the network that the class is in"
        )
    st.session_state.room_address = str(address)
    url = link(str(address))
    left, right = st.columns([3, 2], vertical_alignment="center", gap="medium")
    with left, st.container(key="way-in"):
        components.drawing(qr(url), "room-qr")
    with right:
        shown = html.escape(url.partition("//")[2]).replace("/", "<wbr>/")
        st.html(f'{WAY_IN}In this network, open<div class="room-link">{shown}</div>')
        st.fragment(lambda: _here(room), run_every=EVERY)()
        if st.button("To the counts", key="to-counts", type="primary", icon=":material/bar_chart:"):
            st.rerun()
        if st.button("Close the room", key="close-room"):
            room.close()
            st.rerun()


def _here(room: Room) -> None:
    sit_down()
    so_far = room.answered(st.session_state.lesson)
    st.markdown(f"**{many(room.joined, 'phone')}** joined, **{so_far}** predicted")


def predicted(room: Room, one: Lesson, right: Callable[[], float]) -> bool:
    """Asks the class a lesson's question, and draws it with the counts; True once it is revealed. `right`
    computes the answer.
    """
    room.ask(one)
    revealed = room.revealed(one.number)
    for paragraph in () if revealed else one.read:
        st.markdown(plain(paragraph))
    st.markdown(f"**{plain(one.ask)}**")
    if not revealed and st.button("Reveal", key="choice-1", type="primary", icon=":material/visibility:"):
        room.reveal(right())
        st.rerun()
    st.fragment(lambda: _counts(room, one), run_every=None if revealed else EVERY)()
    if address := st.session_state.get("room_address"):  # for whoever comes late: where the card was shown
        st.caption(plain(link(address).partition("//")[2]))
    return revealed


def _counts(room: Room, one: Lesson) -> None:
    sit_down()
    if room.closed:
        st.rerun()
    if room.revealed(one.number):
        close = one.predict.close if isinstance(one.predict, Guess) else 0  # so far away still counts
        away = f", at most {close:g} away" if close else ""
        st.markdown(f"**{room.right(one)} of {room.answered(one.number)} predicted right{away}.**")
    else:
        st.markdown(f"**{room.answered(one.number)}** predicted, of {many(room.joined, 'phone')}")
    st.html(STYLE + bars(room.bars(one)))


def bars(several: list[Bar]) -> str:
    """The counts as a list of bars, in HTML; the right one has a mark."""
    most = max((bar.count for bar in several), default=0) or 1
    short = all(len(bar.text) <= SHORT for bar in several)
    rows = "".join(
        f'<div role="listitem" class="bar{" right" if bar.right else ""}"><div class="row">'
        f"<span>{'✓ ' if bar.right else ''}{html.escape(bar.text)}</span><span>{bar.count}</span></div>"
        f'<div class="track"><div style="width: {100 * bar.count / most:.1f}%"></div></div></div>'
        for bar in several
    )
    return f'<div role="list" class="room-bars{" short" if short else ""}">{rows}</div>'


def sit_down() -> None:
    """While a room is open, ties it to this tab: it closes when the lecturer's last one has closed."""
    room = HALL.room
    if room is not None:
        seat = _seat(room.number, room)
        seat.take()
        seats.untie_if_gone(seat.leave)


@dataclass(frozen=True, slots=True)
class Seat:
    """A lecturer's tab in a room."""

    room: Room
    session: str  # Streamlit's name for it

    def take(self) -> None:
        """Its connection stands."""
        self.room.enter(self.session)

    def leave(self) -> None:
        """Its connection ended."""
        self.room.leave(self.session)


@st.cache_resource(scope="session", show_spinner=False, on_release=Seat.leave)
def _seat(number: int, _room: Room) -> Seat:
    return Seat(_room, seats.session())


def link(address: str) -> str:
    """What students open."""
    scheme = "https" if st.get_option("server.sslCertFile") else "http"
    return f"{scheme}://{address}:{st.get_option('server.port')}{gate.PATH}"


def qr(url: str) -> str:
    """The picture of a link, as SVG. Dark on light in every theme: not all phones read the reverse."""
    code = segno.make(url, error="m", micro=False)
    found: str = code.svg_inline(title=f"QR code: {url}", light="#FFFFFF", omitsize=True, svgclass=None)
    return found.replace("<svg", '<svg role="img"', 1)


def addresses() -> list[str]:
    """This computer's addresses in its networks, the one that leads out first."""
    found = [
        one.address
        for several in psutil.net_if_addrs().values()
        for one in several
        if one.family == socket.AF_INET and not one.address.startswith(("127.", "169.254."))
    ]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing; an address that is reserved for examples
            first = probe.getsockname()[0]
        except OSError:
            first = ""
    return sorted(dict.fromkeys(found), key=lambda one: one != first)
