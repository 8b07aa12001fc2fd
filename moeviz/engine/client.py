"""The app's side of the worker process: jobs that run one after the other, and what they captured so far.
Imports no torch.

A worker that dies ends its job with a message; what the job captured stays, and the next job starts a new
worker.

    job = Client().submit(Job("watch", "In the beginning", [Settings()]))
    while not job.finished: ...
"""

from __future__ import annotations

import base64
import json
import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from queue import Empty
from typing import Any

from moeviz.core.recorder import Recorder
from moeviz.core.run import Run
from moeviz.core.settings import Settings
from moeviz.core.trace import Trace
from moeviz.engine.pipe import WAKE, WorkerProcess
from moeviz.engine.records import ModelFacts, PassRecord, recording
from moeviz.files.moetrace import from_bytes, run_from_bytes
from moeviz.numbers.medians import median_run

GRACE = 5.0  # seconds in which a browser session whose connection broke can come back
SILENCE = 15.0  # seconds without a sign of life that are told; the worker gives one every half second
PATIENCE = 60.0  # seconds of silence after which the worker is ended: there may be nobody to press Stop
STOP = 2.0  # seconds in which a worker has to react to Stop


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """Which model to run and where."""

    name: str = ""  # folder or hub id; empty: the bundled model
    tier: str = "disk"
    device: str = "auto"
    dtype: str = "auto"
    experts: str = "lossless"  # how the slow tier keeps them: int8 and int4 are lossy
    link: str = ""  # what every copy is slowed down to: a name, GB/s, or GB/s,ms; empty: as fast as it goes


@dataclass(eq=False)
class Job:
    """One request. `watch` captures forward passes as they happen; `compare` measures quietly."""

    kind: str  # watch or compare
    prompt: str
    settings: list[Settings]
    model: ModelSpec = field(default_factory=ModelSpec)
    max_new_tokens: int = 64
    temperature: float = 0.7
    seed: int = 0
    stop_at_end: bool = True
    then: str = ""  # a change of subject, fed halfway
    repeats: int = 3
    state: str = "queued"  # queued, running, done, stopped, failed
    message: str = ""  # why it failed, or what it is doing
    share: float = 0.0  # of the loading (watch) or of all runs (compare)
    facts: ModelFacts | None = None
    passes: list[PassRecord] = field(default_factory=list)
    trace: Trace | None = None  # compare: of the recording run
    recorded: Run | None = None  # compare: the recording run, which is no measurement
    lossless: bool | None = (
        None  # compare: every run gave the logits of transformers' own resident model; None: not verified
    )
    notes: list[str] = field(default_factory=list)  # compare: what was left out or not verified, and why
    silent: bool = False  # the worker has given no sign of life for SILENCE seconds
    runs: list[tuple[int, Run]] = field(
        default_factory=list
    )  # compare: (number of the Settings, measured run)
    began: float = 0.0  # time.monotonic() when its turn came
    _recording: tuple[Trace, Run] | None = None  # when it was last asked for
    _recorder: Recorder | None = None
    _added: int = 0  # passes that the recorder holds
    _growing: threading.Lock = field(default_factory=threading.Lock)
    begun: threading.Event = field(
        default_factory=threading.Event
    )  # set with its first forward pass, or when it is finished without one
    over: threading.Event = field(
        default_factory=threading.Event
    )  # set when the job is finished and the next may begin

    @property
    def finished(self) -> bool:
        return self.state in ("done", "stopped", "failed")

    @property
    def measured(self) -> bool:
        """compare: whether every run is there; then the logits are held against transformers' own."""
        return len(self.runs) == self.repeats * len(self.settings)

    def recording(self) -> tuple[Trace, Run] | None:
        """Trace and run of what it captured so far; None before there is anything.

        Of a comparison, the median run of its first settings: the recording run has no paced link.
        """
        if self.trace is not None:
            assert self.recorded is not None  # which comes with it
            first = [run for number, run in list(self.runs) if number == 0]
            return self.trace, median_run(first) if first else self.recorded
        known, passes = self._recording, list(self.passes)
        if known is not None and len(known[1].passes.phase) == len(passes):
            return known
        if not passes or self.facts is None:
            return None
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self._recording = found = recording(passes, self.facts, self.settings[0], self.prompt, self.seed, now)
        return found

    def so_far(self) -> tuple[Run, list[str]]:
        """The Run of a watch as far as it has come, and the text that entered each forward pass. Needs at
        least one pass."""
        assert self.facts is not None
        with self._growing:
            if self._recorder is None:
                self._recorder = self.facts.recorder(self.settings[0])
            for record in self.passes[self._added :]:
                record.add_to(self._recorder)
                self._added += 1
            texts = ["".join(record.texts) for record in self.passes[: self._added]]
            return self._recorder.run(self.facts.tier), texts

    def receive(self, message: dict[str, Any]) -> None:
        """Takes in one message of the worker."""
        match message["event"]:
            case "loading":
                self.share, self.message = message["share"], message["what"]
            case "loaded":
                self.facts, self.message = ModelFacts.from_json(message["facts"]), ""
            case "pass":
                self.passes.append(PassRecord.from_json(message["record"]))
                self.begun.set()
            case "run":
                content = base64.b64decode(message["content"])
                self.share = message["share"]
                if message["number"] < 0:
                    self.trace, self.recorded = from_bytes(content, "the worker's answer")
                else:
                    self.runs.append((message["number"], run_from_bytes(content)))
            case "verified":
                self.lossless, self.notes = message["lossless"], message["notes"]
            case "end":
                self.state = "stopped" if message["stopped"] else "done"
            case "error":
                self.state, self.message = "failed", message["message"]

    def end(self) -> None:
        """Tells whoever waits for it."""
        self.begun.set()
        self.over.set()

    def to_json(self) -> dict[str, Any]:
        options = {
            "max_new_tokens": self.max_new_tokens,
            "temperature": self.temperature,
            "seed": self.seed,
            "stop_at_end": self.stop_at_end,
            "then": self.then,
        }
        return {
            "kind": self.kind,
            "prompt": self.prompt,
            "settings": [settings.to_dict() for settings in self.settings],
            "model": asdict(self.model),
            "options": options,
            "repeats": self.repeats,
        }


class Client:
    """Runs jobs in the worker process, in the order in which they came."""

    def __init__(self) -> None:
        self._jobs: deque[Job] = deque()
        self._current: Job | None = None
        self._leaving: dict[Job, threading.Timer] = {}
        self._changed = threading.Condition()
        self._worker: WorkerProcess | None = None
        self._stop_by = 0.0  # time.monotonic() until which the current job has to stop; 0: nobody asked
        threading.Thread(target=self._work, name="moeviz-client", daemon=True).start()

    def warm(self) -> None:
        """Starts the worker process before its first job, which then does not wait for its imports."""
        with self._changed:
            if self._worker is None and self._current is None and not self._jobs:
                with suppress(OSError):  # no process can be had: the first job says so
                    self._worker = WorkerProcess()

    def submit(self, job: Job) -> Job:
        with self._changed:
            self._jobs.append(job)
            self._changed.notify_all()
        return job

    def place(self, job: Job) -> int:
        """How many jobs run before this one."""
        with self._changed:
            if job not in self._jobs:
                return 0
            return self._jobs.index(job) + (self._current is not None)

    def stop(self, job: Job) -> None:
        """Ends a job within one token, or with its worker after STOP seconds; what it captured stays."""
        with self._changed:
            self._leaving.pop(job, None)
            if job in self._jobs:
                self._jobs.remove(job)
                job.state = "stopped"
                job.end()
            elif job is self._current and not self._stop_by:
                self._stop_by = time.monotonic() + STOP
                if self._worker is not None:
                    self._worker.send({"kind": "stop"})
                    self._worker.news.put(WAKE)

    def stop_later(self, job: Job, seconds: float = GRACE) -> None:
        """Stops a job whose owner left, unless `keep` is called before."""
        timer = threading.Timer(seconds, self.stop, [job])
        timer.daemon = True
        with self._changed:
            self._leaving[job] = timer
        timer.start()

    def keep(self, job: Job) -> None:
        """The job has an owner (again)."""
        with self._changed:
            timer = self._leaving.pop(job, None)
        if timer is not None:
            timer.cancel()

    def kill(self) -> None:
        """Ends the worker process at once; its job fails with a message."""
        if self._worker is not None:
            self._worker.process.kill()

    @property
    def pid(self) -> int | None:
        """Of the worker process, if one was started."""
        return self._worker.process.pid if self._worker else None

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._jobs)
                job = self._jobs.popleft()
                self._current, self._stop_by = job, 0.0
                job.state, job.began = "running", time.monotonic()
            try:
                self._run(job)
            except OSError as error:  # of the system, which starts it
                job.state = "failed"
                job.message = (
                    f"The worker process cannot be started: {error.strerror or error}. Close something, and "
                    "run again."
                )
            except Exception as error:  # this thread serves every later job too
                job.state, job.message = "failed", f"The worker's answer could not be read: {error}"
                self._end()
            with self._changed:
                self._current = None
            job.end()

    def _run(self, job: Job) -> None:
        worker = self._worker
        if worker is not None and time.monotonic() - worker.heard >= SILENCE:
            self._end()  # it hangs since the last job
        if worker is None or worker.process.poll() is not None:
            job.message = "starting the worker"
            worker = WorkerProcess()
        with self._changed:  # a Stop comes after the job, or before its worker is known
            self._worker = worker
            if self._stop_by:
                job.state = "stopped"
                return
            worker.send(job.to_json())
        worker.heard = time.monotonic()
        said = ""  # what the job said before the worker fell silent
        while not job.finished:
            now = time.monotonic()
            silence = now - worker.heard
            if self._stop_by and now >= self._stop_by:
                self._end()
                job.message = "The worker did not react to Stop and was ended; the next run starts a new one."
                job.state = "stopped"
                return
            if silence >= PATIENCE:
                self._end()
                job.message = (
                    f"The worker process gave no sign of life for {PATIENCE:.0f} s and was ended. "
                    "What was captured is kept; the next run starts a new worker."
                )
                job.state = "failed"
                return
            if silence >= SILENCE and not job.silent:
                said, job.silent = job.message, True
                job.message = (
                    f"The worker process has given no sign of life for {SILENCE:.0f} s: it hangs, or "
                    "the machine is out of memory. Stop ends it; without Stop it is ended after "
                    f"{PATIENCE:.0f} s."
                )
            elif silence < SILENCE and job.silent:
                job.message, job.silent = said, False
            until = worker.heard + (PATIENCE if job.silent else SILENCE)
            if job.silent:
                until = min(until, now + 1.0)  # a sign of life alone wakes nobody
            if self._stop_by:
                until = min(until, self._stop_by)
            try:
                line = worker.news.get(timeout=max(0.0, until - now))
            except Empty:
                continue
            if line is None:
                self._ended(job, worker)
            elif line != WAKE:
                job.receive(json.loads(line))

    def _ended(self, job: Job, worker: WorkerProcess) -> None:
        """The pipe is closed: the worker process is gone, or as good as gone."""
        code = worker.process.wait()
        why = "it was killed, perhaps for want of memory" if code < 0 else f"exit code {code}"
        job.message = (
            f"The worker process ended ({why}). What was captured is kept; the next run starts a new worker."
        )
        job.state = "failed"

    def _end(self) -> None:
        """Ends the worker process and waits for its end, so that its locks and memory are free for the
        next."""
        if self._worker is not None:
            self._worker.process.kill()
            self._worker.process.wait()
