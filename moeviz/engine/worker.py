"""The process that holds the model: reads jobs from standard input, writes what happens to standard output, a JSON line each.

Started by `moeviz.engine.client`; the pipe belongs to the two of them, so nobody else can send it a job.
"""

from __future__ import annotations

import base64
import json
import os
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict
from queue import Queue
from typing import Any

import torch

from moeviz.core.policies import load_policy
from moeviz.core.predictors import load_predictor
from moeviz.core.settings import Settings
from moeviz.engine import measure
from moeviz.engine.loader import Loaded, load, use_threads
from moeviz.engine.session import Options, generate
from moeviz.errors import ModelError, PolicyError, SettingsError, StoreError
from moeviz.files import moetrace

Send = Callable[[dict[str, Any]], None]


class Worker:
    def __init__(self, send: Send) -> None:
        self._send = send
        self._loaded: Loaded | None = None
        self._spec: dict[str, Any] = {}
        self.stop = threading.Event()

    def do(self, job: dict[str, Any]) -> None:
        """One job; every error becomes one message."""
        try:
            loaded = self._load(job["model"])
            self._send({"event": "loaded", "facts": asdict(measure.facts(loaded))})
            options = Options(**job["options"])
            settings = [
                Settings.from_dict(
                    {
                        **values,
                        "policy": load_policy(values["policy"]),
                        "prefetch": load_predictor(values["prefetch"]),
                    }
                )
                for values in job["settings"]
            ]
            if job["kind"] == "watch":
                if settings[0].needs_future:
                    self._send(
                        {
                            "event": "loading",
                            "share": 1.0,
                            "what": f"{settings[0].label} knows the future: recording it first",
                        }
                    )
                future = measure.look_ahead(loaded, job["prompt"], settings[0], options, self.stop.is_set)
                for record in generate(loaded, job["prompt"], settings[0], options, self.stop.is_set, future):
                    self._send({"event": "pass", "record": record.to_json()})
            else:
                self._compare(loaded, job["prompt"], settings, job["repeats"], options)
            self._send({"event": "end", "stopped": self.stop.is_set()})
        except (SettingsError, PolicyError, ModelError, StoreError) as error:
            self._send({"event": "error", "message": str(error)})
        except (MemoryError, torch.OutOfMemoryError):
            self._send(
                {
                    "event": "error",
                    "message": "The fast tier is out of memory. Choose fewer slots or a smaller model.",
                }
            )
        except Exception as error:  # the app shows it; this process goes on
            self._send({"event": "error", "message": f"The run failed: {type(error).__name__}: {error}"})

    def _compare(
        self, loaded: Loaded, prompt: str, settings: list[Settings], repeats: int, options: Options
    ) -> None:
        trace = None
        for share, number, recorded, run in measure.compare(
            loaded, prompt, settings, repeats, options, self.stop.is_set
        ):
            trace = recorded or trace
            assert trace is not None
            content = base64.b64encode(moetrace.to_bytes(trace, run)).decode()
            self._send({"event": "run", "share": share, "number": number, "content": content})

    def _load(self, spec: dict[str, Any]) -> Loaded:
        if self._loaded is None or spec != self._spec:
            if self._loaded is not None:
                self._loaded.store.close()
                self._loaded = None
            self._loaded = load(
                spec["name"] or load.__defaults__[0],
                tier=spec["tier"],
                device=spec["device"],
                dtype=spec["dtype"],
                progress=lambda share, what: self._send({"event": "loading", "share": share, "what": what}),
            )
            self._spec = spec
        return self._loaded


def main() -> None:
    # Libraries print: their output goes to standard error, the pipe stays ours.
    pipe = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    use_threads(
        int(os.environ.get("MOEVIZ_THREADS", "1"))
    )  # two threads on two busy cores are slower than one

    def send(message: dict[str, Any]) -> None:
        pipe.write(json.dumps(message) + "\n")
        pipe.flush()

    worker = Worker(send)
    jobs: Queue[dict[str, Any] | None] = Queue()

    def listen() -> None:
        for line in sys.stdin:
            message = json.loads(line)
            if message == {"kind": "stop"}:
                worker.stop.set()
            else:
                worker.stop.clear()
                jobs.put(message)
        worker.stop.set()  # the app is gone
        jobs.put(None)

    threading.Thread(target=listen, daemon=True).start()
    while (job := jobs.get()) is not None:
        worker.do(job)


if __name__ == "__main__":
    main()
