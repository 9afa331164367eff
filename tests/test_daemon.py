"""The front daemon's own start: its command line, and what it says when it cannot start."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from orchd.daemon import main


def test_a_wrong_configuration_is_said_to_systemd_and_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "orchd.toml"
    file.write_text("bind_adr = 1\n")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        assert main(["--config", str(file), "--log", "json"]) == 78
        assert b"did you mean bind_addr?" in systemd.recv(4096)
    said = capsys.readouterr().err
    assert f"{file}:1: $.bind_adr" in said
    assert '"kind":"config_invalid"' in said


def test_the_log_of_the_environment_is_checked_like_the_flag(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ORCHD_LOG", "loud")
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 2
    assert "must be one of auto, json, pretty, journal, not 'loud'" in capsys.readouterr().err


def test_a_certificate_that_cannot_be_read_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "orchd.toml"
    file.write_text('tls = { cert = "none.pem", key = "none.key" }\n')
    monkeypatch.setenv("ORCHD_RUN_DIR", str(tmp_path))
    monkeypatch.setenv("ORCHD_STATE_DIR", str(tmp_path))
    assert main(["--config", str(file), "--log", "json"]) == 78
    assert f"cannot read {tmp_path}/none.pem: No such file or directory" in capsys.readouterr().err
