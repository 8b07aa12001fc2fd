"""Slow tiers by name: what a copy over them takes. One table for what a run would cost elsewhere and for a
link that is paced.

find("SATA SSD").copy_ms(1_000_000)       # 1.97
find("0.5,0.2").copy_ms(1_000_000)        # 2.2: half a gigabyte per second, 0.2 ms before the first byte
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from moeviz.amounts import milliseconds, rate
from moeviz.errors import SettingsError


@dataclass(frozen=True, slots=True)
class Machine:
    """A slow tier. A copy of n bytes takes latency + n / bandwidth."""

    name: str
    latency_ms: float
    gigabytes_per_second: float
    nominal: bool = True  # figures of the standard or the maker, not measured

    def copy_ms(self, expert_bytes: int) -> float:
        return self.latency_ms + expert_bytes / (self.gigabytes_per_second * 1e6)

    @property
    def label(self) -> str:
        """Name and figures, for badges and captions."""
        figures = (
            f"{self.gigabytes_per_second:g} GB/s, {self.latency_ms:g} ms"
            if self.nominal
            else f"{rate(self.gigabytes_per_second)}, {milliseconds(self.latency_ms)}"
        )
        return figures if self.name == TYPED else f"{self.name} ({figures})"


TYPED = "typed in"  # name of a machine that a user gave by its figures
MACHINES = (  # one direction of the bus; a drive's sequential reads
    Machine("PCIe 3 x16, host memory", 0.01, 15.8),
    Machine("PCIe 4 x16, host memory", 0.01, 31.5),
    Machine("PCIe 5 x16, host memory", 0.01, 63.0),
    Machine("NVMe SSD (PCIe 4 x4)", 0.08, 7.0),
    Machine("SATA SSD", 0.15, 0.55),
    Machine("SD card", 0.25, 0.1),  # UHS-I, 4,000 random reads per second (class A2)
)
DEVICES = ("auto", "cpu", "cuda", "mps", "xpu", "npu", "mtia", "hpu")  # kinds that torch can compute on
LINKS = ("SD card", "SATA SSD", "NVMe", "PCIe 3", "PCIe 4", "PCIe 5")  # how `find` knows them


def find(text: str) -> Machine | None:
    """The machine that a user named, or gave as GB/s or GB/s,ms; None for an empty text.

    A name is known by its beginning, in capitals or not. Raises SettingsError for anything else.
    """
    name = text.strip()
    if not name:
        return None
    named = [machine for machine in MACHINES if machine.name.lower().startswith(name.lower())]
    if len(named) == 1:
        return named[0]
    rate, _, wait = name.partition(",")
    try:
        figures = float(rate), float(wait or 0)
    except ValueError:
        figures = math.nan, math.nan
    if not (0.001 <= figures[0] <= 10_000 and 0 <= figures[1] <= 10_000):
        raise SettingsError(
            f"link {text!r} is not known. Choose one of {', '.join(LINKS)}, or write GB/s or GB/s,ms: "
            "0.001 to 10000 GB/s and at most 10000 ms, for example 0.5,0.1."
        )
    return Machine(TYPED, figures[1], figures[0])
