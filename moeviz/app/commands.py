"""The command lines that do what was done in the browser, ready to be copied."""

from __future__ import annotations

import shlex
from typing import Any

from moeviz.core.settings import Settings
from moeviz.engine.client import Job
from moeviz.numbers.lossy import LOSSLESS


def run(job: Job) -> str:
    """`python -m moeviz run` of what "Run it live" did."""
    return _command("run", job, *flags(job.settings[0]), "--out", "run.moetrace")


def compare(job: Job) -> str:
    """`python -m moeviz compare` of what "Measure" did."""
    wanted = [one for one in job.settings if not one.baseline]
    baselines = ",".join(one.baseline for one in job.settings if one.baseline)
    parts = [part for one in wanted for part in ("--setting", setting(one))]
    return _command("compare", job, *parts, "--baselines", baselines, "--repeats", str(job.repeats))


def setting(settings: Settings) -> str:
    """As `--setting` takes it."""
    return ",".join(f"{name}={value}" for name, value in _changed(settings).items())


def flags(settings: Settings) -> list[str]:
    """As `python -m moeviz run` takes them; the seed is the run's own."""
    return [
        part
        for name, value in _changed(settings).items()
        if name != "seed"
        for part in (f"--{name.replace('_', '-')}", str(value))
    ]


def _changed(settings: Settings) -> dict[str, Any]:
    """Fields that differ from what moeviz takes when nothing is said, and always the policy and the slots."""
    plain = Settings().to_dict()
    return {
        name: value
        for name, value in settings.to_dict().items()
        if name in ("policy", "slots") or value != plain[name]
    }


def _command(name: str, job: Job, *own: str) -> str:
    """`own`: the flags of this command alone."""
    parts = ["python", "-m", "moeviz", name, *([job.model.name] if job.model.name else [])]
    parts += ["--prompt", job.prompt, *own, "--max-new-tokens", str(job.max_new_tokens)]
    parts += ["--temperature", str(job.temperature), "--seed", str(job.seed), "--past-end"]
    parts += ["--tier", job.model.tier, "--device", job.model.device]
    parts += ["--link", job.model.link] if job.model.link else []
    parts += ["--experts", job.model.experts] if job.model.experts != LOSSLESS else []
    return shlex.join([*parts, *(["--then", job.then] if job.then else [])])
