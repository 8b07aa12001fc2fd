"""How the server sends: each message at once, and all of a page whose fragment is asked for again before all
of the page has been sent.

sending.at_once()         # once, before the first connection
sending.whole_pages()     # once, before the first session
"""

from __future__ import annotations

import socket
from asyncio import Transport
from typing import Any

from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from streamlit.runtime import app_session
from streamlit.runtime.forward_msg_queue import ForwardMsgQueue
from uvicorn.protocols.http.auto import AutoHTTPProtocol

_PAGE_ENDED = ForwardMsg.ScriptFinishedStatus.FINISHED_SUCCESSFULLY


class WholePages(ForwardMsgQueue):
    """A session's messages to its browser, until they are sent, some times a second.

    A run of a fragment takes back what waits there of that fragment, since it brings the same anew. Streamlit
    lets the note wait on that the page has been made, though, and at that note the browser drops all that it
    was not sent again: so the fragment is gone, and comes back in a moment as another one. The stage was
    built anew whenever somebody changed a second setting while the page of the first one was made, or when a
    run that is watched looked again just then. What waits together with such a note is sent as it is.
    """

    def clear(
        self, retain_lifecycle_msgs: bool = False, fragment_ids_this_run: list[str] | None = None
    ) -> None:
        if fragment_ids_this_run is None or not any(_ends_page(message) for message in self._queue):
            super().clear(retain_lifecycle_msgs, fragment_ids_this_run)
        else:
            self._delta_index_map = {}  # what comes follows the note, and replaces nothing before it


def _ends_page(message: ForwardMsg) -> bool:
    return message.WhichOneof("type") == "script_finished" and message.script_finished == _PAGE_ENDED


def at_once() -> None:
    """Every connection from now on sends what it is given, however little that is.

    Else a system holds a small message back until the one before it has been acknowledged, and that takes 40
    ms where the other side waits for more to acknowledge: so did most of the small files that a new browser
    asks for. asyncio sees to it by itself, but only where a socket names its protocol; Streamlit's does not.
    """
    made = AutoHTTPProtocol.connection_made

    def connection_made(protocol: Any, transport: Transport) -> None:
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        made(protocol, transport)

    AutoHTTPProtocol.connection_made = connection_made  # type: ignore[method-assign, assignment]


def whole_pages() -> None:
    """Every session that begins from now on has such messages."""
    app_session.ForwardMsgQueue = WholePages  # type: ignore[attr-defined]
