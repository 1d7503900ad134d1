"""The command of the overlay, and what may be wrong where it is run."""

import pytest

from jobs import overlay
from transforms.io.pubsub import EMULATOR


def test_what_is_wrong_is_said(small_road, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv(EMULATOR, raising=False)
    assert overlay.main(["--root", str(tmp_path)]) == 1
    assert "nothing is live on home" in capsys.readouterr().err
    assert overlay.main(["--root", str(small_road.root)]) == 1
    assert "no stream is at work under" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        overlay.main(["--root", str(small_road.root), "--hourly"])
    assert stopped.value.code == 2
    assert "unknown arguments: --hourly" in capsys.readouterr().err
