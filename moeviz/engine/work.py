"""What the worker process does with a job: loads the model, runs it, sends what happens. Knows no pipe.

Worker(print, threading.Event()).do(Job("watch", "In the beginning", [Settings()]).to_json())
"""

from __future__ import annotations

import base64
import threading
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch

from moeviz import words
from moeviz.core import machines
from moeviz.core.policies import load_policy
from moeviz.core.predictors import load_predictor
from moeviz.core.settings import Settings
from moeviz.engine import exactness, measure
from moeviz.engine.loader import BUNDLED, Loaded, load
from moeviz.engine.session import Options, generate
from moeviz.errors import ModelError, PolicyError, SettingsError, StoreError
from moeviz.files import moetrace

Send = Callable[[dict[str, Any]], None]


class Stopped(Exception):
    """A job was stopped while its model was being loaded."""


class Worker:
    """Holds the model of the last job, for the next one."""

    def __init__(self, send: Send, stop: threading.Event) -> None:
        self._send = send
        self._stop = stop
        self._loaded: Loaded | None = None
        self._spec: dict[str, Any] = {}

    def do(self, job: dict[str, Any]) -> None:
        """One job; every error becomes one message."""
        try:
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
            loaded = self._load(job["model"], settings)
            self._send({"event": "loaded", "facts": asdict(measure.facts(loaded))})
            options = Options(**job["options"])
            if job["kind"] == "watch":
                self._watch(loaded, job["prompt"], settings[0], options)
            else:
                self._compare(loaded, job["prompt"], settings, job["repeats"], options)
            self._send({"event": "end", "stopped": self._stop.is_set()})
        except Stopped:
            self._send({"event": "end", "stopped": True})
        except StoreError as error:
            self._forget()  # a slow tier that failed is built or opened anew
            self._send({"event": "error", "message": str(error)})
        except (SettingsError, PolicyError, ModelError) as error:
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

    def _watch(self, loaded: Loaded, prompt: str, settings: Settings, options: Options) -> None:
        measure.fitting(loaded, [settings])
        if settings.needs_future:
            self._progress(1.0, f"{words.label(settings)} knows the future: recording it first")
        future = measure.look_ahead(loaded, prompt, settings, options, self._stop.is_set)
        if self._stop.is_set():
            return
        for record in generate(loaded, prompt, settings, options, self._stop.is_set, future):
            self._send({"event": "pass", "record": record.to_json()})

    def _compare(
        self, loaded: Loaded, prompt: str, settings: list[Settings], repeats: int, options: Options
    ) -> None:
        kept, left_out = measure.fitting(loaded, settings)
        # as the job counts them
        numbers = [n for n, one in enumerate(settings) if any(one is other for other in kept)]
        trace = None
        logits: list[exactness.Logits] = []
        with exactness.logits_seen(loaded) as seen:
            for share, number, recorded, run in measure.compare(
                loaded, prompt, kept, repeats, options, self._stop.is_set
            ):
                trace = recorded or trace
                assert trace is not None
                logits.append(seen.copy())
                seen.clear()
                if recorded is not None:
                    content, own = moetrace.to_bytes(recorded, run), number
                else:  # the trace is there already
                    content, own = moetrace.run_to_bytes(run), numbers[number]
                packed = base64.b64encode(content).decode()
                self._send({"event": "run", "share": share, "number": own, "content": packed})
        if trace is None or self._stop.is_set():
            return
        lossless = None
        if loaded.rounding:
            found, why = exactness.lossy_where_it_fits(loaded, trace)
            left_out.append(why if found is None else words.lossy(found))
        elif why := exactness.not_verifiable(loaded):
            left_out.append(f"The logits are {why}")
        elif (expected := exactness.reference(loaded, trace, self._stop.is_set)) is not None:
            lossless = all(one == expected for one in logits)
        self._send({"event": "verified", "lossless": lossless, "notes": left_out})

    def _load(self, spec: dict[str, Any], settings: list[Settings]) -> Loaded:
        pace = machines.find(spec["link"])  # what cannot be read is said before anything is loaded
        wanted = {name: value for name, value in spec.items() if name != "link"}
        if self._loaded is None or wanted != self._spec:
            self._forget()
            self._loaded = load(
                spec["name"] or BUNDLED,
                tier=spec["tier"],
                device=spec["device"],
                dtype=spec["dtype"],
                experts=spec["experts"],
                progress=self._progress,
                wanted=lambda shape: settings,
            )
            self._spec = wanted
        if self._loaded.link != pace:
            self._loaded = measure.paced(self._loaded, spec["link"])
        return self._loaded

    def _forget(self) -> None:
        if self._loaded is not None:
            self._loaded.store.close()
            self._loaded = None

    def _progress(self, share: float, what: str) -> None:
        if self._stop.is_set():
            raise Stopped
        self._send({"event": "loading", "share": share, "what": what})
