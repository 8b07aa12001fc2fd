"""A browser's side of one session without a browser: Streamlit's own messages over WebSocket and HTTP.

It draws nothing, so that twenty of them cost a server what twenty browsers cost it, and this machine nothing
besides. What a page shows is what the server sent:
`texts` its words, `component` what a component of moeviz's own was given.

    visitor = Visitor("http://127.0.0.1:8501")
    visitor.open("tokens=8")
    visitor.event("run")
"""

from __future__ import annotations

import json
import time
import urllib.request
import uuid
from contextlib import ExitStack
from http.cookiejar import CookieJar
from pathlib import Path
from typing import Any

from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ClientState_pb2 import ClientState
from streamlit.proto.Element_pb2 import Element
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from streamlit.proto.WidgetStates_pb2 import WidgetState
from websockets.sync.client import connect

PATIENCE = 300  # seconds for an answer of a busy server


class Visitor:
    """One browser with one tab, or one more tab `of` a browser. Its cookie tells it from the others."""

    def __init__(self, address: str, of: Visitor | None = None) -> None:
        self.address = address
        self._jar = of._jar if of is not None else CookieJar()
        self._web = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(self._jar))
        self._web.open(f"{address}/_stcore/health", timeout=PATIENCE).close()
        self._stack = ExitStack()
        connection = connect(
            address.replace("http", "ws", 1) + "/_stcore/stream",
            additional_headers={"Cookie": "; ".join(f"{one.name}={one.value}" for one in self._jar)},
            origin=address,  # type: ignore[arg-type]
            subprotocols=["streamlit"],  # type: ignore[list-item]
            max_size=None,
            open_timeout=PATIENCE,
            ping_interval=None,  # a server that is busy for a while is not gone
        )
        self._socket = self._stack.enter_context(connection)
        self.session = ""
        self.query = ""
        self.page = ""  # hash of its script
        self.pages: dict[str, str] = {}  # by title
        self.wrong: list[str] = []  # exceptions that a page showed
        self._shown: dict[tuple[int, ...], Element] = {}
        self._states: dict[str, WidgetState] = {}
        self._looks: dict[str, float] = {}  # fragments that look again by themselves: seconds between

    def __enter__(self) -> Visitor:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def open(self, query: str = "") -> None:
        """Loads the first page, by a link."""
        self.query, self.page = query, ""
        self._shown.clear()
        self._run()

    def turn(self, title: str) -> None:
        """To another page."""
        self.page = self.pages[title]
        self._run()

    def elements(self, kind: str) -> list[Any]:
        """Everything of a kind on the page, in the protocol's own form."""
        return [getattr(one, kind) for one in self._shown.values() if one.WhichOneof("type") == kind]

    def texts(self) -> str:
        """The words on the page."""
        kinds = {"markdown": "body", "text": "body", "alert": "body", "heading": "body", "code": "code_text"}
        kinds |= {"button": "label", "exception": "message"}
        found = "\n".join(
            getattr(getattr(one, kind), kinds[kind])
            for one in self._shown.values()
            if (kind := one.WhichOneof("type")) in kinds
        )
        return found.replace("\\", "")  # before what Markdown would take for its own

    def options(self, label: str) -> list[str]:
        """Of a list to choose from."""
        return list(next(one for one in self.elements("selectbox") if one.label == label).options)

    def component(self, name: str) -> dict[str, Any]:
        """What a component of moeviz's own was given."""
        return dict(json.loads(self._component(name).json))

    def press(self, label: str) -> None:
        button = next(one for one in self.elements("button") if one.label == label)
        self._run(WidgetState(id=button.id, trigger_value=True))

    def write(self, label: str, text: str) -> None:
        """Into a field for text, whether it has one line or several."""
        fields = [*self.elements("text_input"), *self.elements("text_area")]
        found = next(one for one in fields if one.label == label)
        self._set(WidgetState(id=found.id, string_value=text))

    def choose(self, label: str, option: str) -> None:
        """From a list."""
        found = next(one for one in self.elements("selectbox") if one.label == label)
        self._set(WidgetState(id=found.id, string_value=option))

    def event(self, kind: str, **more: object) -> None:
        """What a press of a button of the stage, or its key, sends."""
        happened = {"events": [{"kind": kind, "at": time.time_ns() // 1_000_000, **more}]}
        self._set(WidgetState(id=self._component("moeviz_stage").id, json_value=json.dumps(happened)))

    def upload(self, file: Path) -> None:
        """Into the one place on the page where files are dropped."""
        place = self.elements("file_uploader")[0]
        asked = uuid.uuid4().hex
        self._send(
            BackMsg(
                file_urls_request={
                    "request_id": asked,
                    "file_names": [file.name],
                    "session_id": self.session,
                }
            )
        )
        while (said := self._receive()).WhichOneof("type") != "file_urls_response":
            self._take(said)
        urls = said.file_urls_response.file_urls[0]
        content = file.read_bytes()
        self._put(urls.upload_url, file.name, content)
        state = WidgetState(id=place.id)
        info = state.file_uploader_state_value.uploaded_file_info.add(
            file_id=urls.file_id, name=file.name, size=len(content)
        )
        info.file_urls.CopyFrom(urls)
        self._set(state)

    def clear_caches(self) -> None:
        """What the developers' menu of Streamlit asks for, which moeviz does not show."""
        self._send(BackMsg(clear_cache=True))

    def look(self) -> None:
        """Waits as long as the page wants to, and looks again at what grows there by itself."""
        assert self._looks, f"nothing on the page looks again by itself: {self.texts()}"
        fragment, seconds = min(self._looks.items(), key=lambda one: one[1])
        time.sleep(seconds)
        self._run(fragment=fragment)

    def _component(self, name: str) -> Any:
        return next(one for one in self.elements("bidi_component") if one.component_name == name)

    def _put(self, url: str, name: str, content: bytes) -> None:
        edge = uuid.uuid4().hex
        head = f'--{edge}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'
        cookies = {one.name: one.value or "" for one in self._jar}
        request = urllib.request.Request(
            f"{self.address}{url}",
            head.encode() + content + f"\r\n--{edge}--\r\n".encode(),
            {
                "Content-Type": f"multipart/form-data; boundary={edge}",
                "X-Xsrftoken": cookies["_streamlit_xsrf"],
            },
            method="PUT",
        )
        self._web.open(request, timeout=PATIENCE).close()

    def _set(self, state: WidgetState) -> None:
        self._states[state.id] = state
        self._run()

    def _run(self, *triggers: WidgetState, fragment: str = "") -> None:
        """Asks for the script, or a fragment of it, and takes in what it draws, to its end."""
        state = ClientState(query_string=self.query, page_script_hash=self.page, fragment_id=fragment)
        state.widget_states.widgets.extend([*self._states.values(), *triggers])
        self._send(BackMsg(rerun_script=state))
        while True:
            said = self._receive()
            self._take(said)
            if said.WhichOneof("type") == "script_finished" and said.script_finished in (
                ForwardMsg.FINISHED_SUCCESSFULLY,
                ForwardMsg.FINISHED_FRAGMENT_RUN_SUCCESSFULLY,
                ForwardMsg.FINISHED_WITH_COMPILE_ERROR,
            ):
                return

    def _send(self, said: BackMsg) -> None:
        self._socket.send(said.SerializeToString())

    def _receive(self) -> ForwardMsg:
        found = ForwardMsg()
        content = self._socket.recv(timeout=PATIENCE)
        assert isinstance(content, bytes)
        found.ParseFromString(content)
        return found

    def _take(self, said: ForwardMsg) -> None:
        match said.WhichOneof("type"):
            case "new_session":
                self.session = said.new_session.initialize.session_id
                self.page = said.new_session.page_script_hash
                if not said.metadata.run.fragment_ids:
                    self._shown.clear()
                    self._looks.clear()
            case "navigation":
                self.pages = {one.page_name: one.page_script_hash for one in said.navigation.app_pages}
                self.page = said.navigation.page_script_hash
            case "page_info_changed":
                self.query = said.page_info_changed.query_string
            case "auto_rerun":
                self._looks[said.auto_rerun.fragment_id] = said.auto_rerun.interval
            case "stop_auto_rerun":
                for one in said.stop_auto_rerun.fragment_ids:
                    self._looks.pop(one, None)
            case "delta":
                path = tuple(said.metadata.delta_path)
                if said.delta.WhichOneof("type") == "new_element":
                    element = said.delta.new_element
                    self._shown[path] = element
                    if element.WhichOneof("type") == "exception":
                        self.wrong.append(element.exception.message)
                elif said.delta.WhichOneof("type") == "add_block":
                    for old in [one for one in self._shown if one[: len(path)] == path]:
                        del self._shown[old]
