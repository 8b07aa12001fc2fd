"""A page is sent whole, also when one of its fragments is asked for again before it has been."""

from __future__ import annotations

import pytest
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from streamlit.runtime import app_session
from streamlit.runtime.forward_msg_queue import ForwardMsgQueue

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
