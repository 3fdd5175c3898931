"""Which folders can be reached; what a root looks like is tested with the scanner."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from clipsearch import reachable as module
from clipsearch.reachable import reachable


def test_a_drive_that_does_not_answer_is_waited_for_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "photo.jpg").touch()
    here, dead = os.fsencode(tmp_path), b"/a/server/that/is/down"
    answers = threading.Event()
    asked: list[bytes] = []
    look = module.root_state

    def stuck(root: bytes) -> str:
        asked.append(root)
        if root == dead:
            answers.wait(60)
        return "online" if root == dead else look(root)

    monkeypatch.setattr(module, "root_state", stuck)
    assert reachable([dead, here], patience=0.2) == {here}
    assert reachable([here, dead], patience=0.2) == {here}
    assert asked.count(dead) == 1
    answers.set()
    module._waiting[dead].join(60)
    assert reachable([here, dead], patience=60) == {here, dead}
