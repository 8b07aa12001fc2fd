"""A page is sent whole, also when one of its fragments is asked for again before it has been; and at once."""

from __future__ import annotations

import asyncio
import socket

import pytest
import uvicorn
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from streamlit.runtime import app_session
from streamlit.runtime.forward_msg_queue import ForwardMsgQueue
from streamlit.web.server.starlette.starlette_server import _bind_socket
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from moeviz.app import sending

ENDED = ForwardMsg.ScriptFinishedStatus


def delta(text: str, *path: int, fragment: str = "") -> ForwardMsg:
    message = ForwardMsg()
    message.metadata.delta_path[:] = path
    message.delta.new_element.text.body = text
    message.delta.fragment_id = fragment
    return message


def ended(how: int) -> ForwardMsg:
    return ForwardMsg(script_finished=how)


def texts(sent: list[ForwardMsg]) -> list[str]:
    return [
        one.delta.new_element.text.body if one.HasField("delta") else ENDED.Name(one.script_finished)
        for one in sent
    ]


def test_a_fragment_takes_back_nothing_of_a_page_that_has_been_made() -> None:
    queue = sending.WholePages()
    for message in (
        delta("bar", 0, 0),
        delta("stage", 0, 1, fragment="f"),
        ended(ENDED.FINISHED_SUCCESSFULLY),
    ):
        queue.enqueue(message)
    queue.clear(retain_lifecycle_msgs=True, fragment_ids_this_run=["f"])
    queue.enqueue(delta("stage again", 0, 1, fragment="f"))
    assert texts(queue.flush()) == ["bar", "stage", "FINISHED_SUCCESSFULLY", "stage again"]


def test_what_is_replaced_is_not_sent_twice_where_no_page_has_been_made() -> None:
    queue = sending.WholePages()
    for message in (delta("stage", 0, 1, fragment="f"), ended(ENDED.FINISHED_FRAGMENT_RUN_SUCCESSFULLY)):
        queue.enqueue(message)
    queue.clear(retain_lifecycle_msgs=True, fragment_ids_this_run=["f"])
    assert texts(queue.flush()) == ["FINISHED_EARLY_FOR_RERUN"]

    queue.enqueue(delta("page", 0, 0))
    queue.enqueue(ended(ENDED.FINISHED_SUCCESSFULLY))
    queue.clear(retain_lifecycle_msgs=True)  # the next run is of the whole page
    assert texts(queue.flush()) == ["FINISHED_EARLY_FOR_RERUN"]


def test_sessions_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app_session, "ForwardMsgQueue", ForwardMsgQueue)
    sending.whole_pages()
    assert app_session.ForwardMsgQueue is sending.WholePages
    assert "ForwardMsgQueue" in app_session.AppSession.__init__.__code__.co_names  # who asks by this name


def test_connections_of_streamlits_socket_hold_nothing_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AutoHTTPProtocol, "connection_made", AutoHTTPProtocol.connection_made)

    async def nodelay() -> bool:
        listening = _bind_socket("127.0.0.1", 0, 8)
        config = uvicorn.Config(lambda *_: None, lifespan="off", log_level="critical")
        server = uvicorn.Server(config)
        config.load()
        server.lifespan = config.lifespan_class(config)
        await server.startup(sockets=[listening])
        _, writer = await asyncio.open_connection(*listening.getsockname())
        async with asyncio.timeout(300):
            while not server.server_state.connections:
                await asyncio.sleep(0.01)
        (made,) = server.server_state.connections
        found = made.transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        writer.close()
        await server.shutdown(sockets=[listening])
        return bool(found)

    assert not asyncio.run(nodelay()), "Streamlit sees to it itself now"
    sending.at_once()
    assert asyncio.run(nodelay())
