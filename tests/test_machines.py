"""Links by name and by figures."""

from __future__ import annotations

import pytest

from moeviz.core.machines import LINKS, MACHINES, find
from moeviz.errors import SettingsError


@pytest.mark.parametrize("name", LINKS)
def test_every_name_that_is_offered_is_known_and_faster_links_copy_faster(name: str) -> None:
    found = find(name)
    assert found in MACHINES
    assert find(name.upper()) == find(f" {name.lower()} ") == found


def test_figures_and_their_label() -> None:
    assert find("") is None
    assert find("0.5,0.2") is not None
    typed, sata = find("0.5,0.2"), find("SATA SSD")
    assert typed is not None
    assert sata is not None
    assert typed.copy_ms(1_000_000) == pytest.approx(2.2)
    assert typed.label == "0.5 GB/s, 0.2 ms"
    assert sata.label == "SATA SSD (0.55 GB/s, 0.15 ms)"


@pytest.mark.parametrize(
    "text", ["tape", "pcie", "0", "-1", "nan", "inf", "1,-1", "1,nan", "1e9", "1,2,3", "1;2"]
)
def test_what_is_no_link_is_one_message(text: str) -> None:
    with pytest.raises(SettingsError, match=r"is not known. Choose one of SD card, .* for example 0\.5,0\.1"):
        find(text)
