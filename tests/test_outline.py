"""What is told of a model on the hub before anything of it is downloaded."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import transformers
from huggingface_hub.errors import DryRunError, LocalEntryNotFoundError

from moeviz.engine import outline
from moeviz.engine.outline import outline_of
from moeviz.errors import ModelError, StoreError
from moeviz.files.headers import CHECKPOINT


def on_the_hub(patch: pytest.MonkeyPatch, config: Any, size: int | None) -> list[bool]:
    """A hub that has one model, of which so many bytes are to come; None: it cannot be reached. The list is
    filled with what is asked of it: whether a download is only tried out."""
    asked: list[bool] = []

    def download(name: str, dry_run: bool = False, **wanted: Any) -> Any:
        assert wanted == CHECKPOINT
        asked.append(dry_run)
        if size is None:
            raise DryRunError("no connection") if dry_run else LocalEntryNotFoundError("It is not here.")
        assert dry_run, "it is downloaded"
        return [SimpleNamespace(file_size=size, will_download=True)]

    patch.setattr(outline.PreTrainedConfig, "get_config_dict", lambda name: (config.to_dict(), {}))
    patch.setattr(outline.AutoConfig, "from_pretrained", lambda name, **options: config)
    patch.setattr("huggingface_hub.snapshot_download", download)
    return asked


def test_what_cannot_be_run_is_not_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = on_the_hub(monkeypatch, transformers.ViTConfig(), 1)
    with pytest.raises(ModelError, match="does not generate text"):
        outline_of("owner/model", "cpu", "auto", [])
    assert asked == []


def test_a_download_that_has_no_room_is_not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = on_the_hub(monkeypatch, transformers.MixtralConfig(), 10**15)
    with pytest.raises(StoreError, match=r"The download of owner/model needs .* Make room, or set HF_HOME"):
        outline_of("owner/model", "cpu", "auto", [])
    assert asked == [True]


def test_a_hub_that_cannot_be_reached_does_where_the_model_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = on_the_hub(monkeypatch, transformers.MixtralConfig(), None)
    with pytest.raises(ModelError, match="as a hub id it cannot be read: It is not here"):
        outline_of("owner/model", "cpu", "auto", [])
    assert asked == [True, False]  # what is here would have been given
