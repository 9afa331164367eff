"""The generator on files: which units hold after a change, a fault, a removal. No systemd here."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchd.generator import gpus, program, say
from orchd.generator.program import Places, generate, main, places
from orchd.wire import ids
from tests.generator.test_plan import pool

WANTS = "orchd.target.wants"


@pytest.fixture
def where(tmp_path):
    (tmp_path / "run" / "poolmgr").mkdir(parents=True)
    return Places(tmp_path / "orchd.toml", tmp_path / "run", gpus=tmp_path / "gpus")


@pytest.fixture
def said(monkeypatch):
    lines: list[tuple[str, str]] = []
    monkeypatch.setattr(say, "error", lambda *line: lines.append(line))
    return lines


def made(where: Places) -> set[str]:
    """Instances that the target wants after a run, and that each has its drop-in."""
    out = where.run / f"out{len(list(where.run.iterdir()))}"
    generate(where, out)
    links = [path.name for path in (out / WANTS).iterdir()] if (out / WANTS).exists() else []
    names = {link.removesuffix(".service") for link in links if "@" in link and ".serv" in link}
    for name in names:
        assert (out / f"{name}.service.d/50-orchd.conf").is_file()
    return names


@pytest.mark.req("SYSD-15")
def test_no_file_no_pools(where, said):
    assert made(where) == set()
    assert said == []


@pytest.mark.req("SYSD-15")
def test_a_changed_file_changes_the_units(where, said):
    where.config.write_text(pool("a"))
    assert made(where) == {"poolmgr@a:0"}
    where.config.write_text(pool("a") + pool("b"))
    assert made(where) == {"poolmgr@a:0", "poolmgr@b:0"}
    where.config.unlink()
    assert made(where) == set()
    assert said == []


@pytest.mark.req("SYSD-19")
@pytest.mark.parametrize(
    "bad",
    [
        "[[pools",
        pool("a") + pool("a"),
        pool("../../etc/x"),
        pool("x\\nExecStart=/bin/sh"),
        pool("A b"),
        pool("a", replicas="[[64]]"),
        pool("a", replicas="[[1, 0]]"),
        pool("a", more="unknown = 1"),
        pool("a", more='read_paths = ["relative"]'),
        pool("a", more='read_paths = ["/x:/etc"]'),
        pool("a", more="limits = { memory_mb = 0 }"),
        "\udcff",
        "x = " + "[" * 5000,
        "# " + "x" * (1 << 20),
    ],
    ids=lambda text: ascii(text)[:20],
)
def test_the_last_good_units_stay_when_a_file_is_refused(where, said, bad):
    where.config.write_text(pool("good"))
    assert made(where) == {"poolmgr@good:0"}
    where.config.write_bytes(bad.encode("utf-8", "surrogateescape"))
    assert made(where) == {"poolmgr@good:0"}
    ((event, line),) = said
    assert event == "units_refused"
    assert "the last good ones stay" in line
    assert str(where.config) in line
    assert "orchctl config check" in line
    where.config.write_text(pool("good") + pool("next"))
    assert made(where) == {"poolmgr@good:0", "poolmgr@next:0"}
    assert len(said) == 1


@pytest.mark.req("SYSD-19")
def test_with_nothing_to_fall_back_to_there_are_no_pools(where, said):
    where.config.write_text("bad = 1\n")
    assert made(where) == set()
    assert "there are none to fall back to" in said[0][1]
    assert f"{where.config}:1: $.bad" in said[0][1]


@pytest.mark.req("SYSD-19")
@pytest.mark.parametrize("rubbish", ["", "{}", "[1]", '{"key": 1, "files": 2}', "\0"])
def test_what_was_kept_and_is_spoilt_is_made_anew(where, said, rubbish):
    (where.run / program.KEPT).write_text(rubbish)
    where.config.write_text(pool("a"))
    assert made(where) == {"poolmgr@a:0"}
    assert json.loads((where.run / program.KEPT).read_text())["instances"] == ["a:0"]
    assert said == []


@pytest.mark.req("SYSD-20")
def test_a_pool_that_is_gone_from_the_file_is_stopped_with_the_target(where):
    where.config.write_text(pool("a"))
    for name in ("a:0.sock", "old:0_1.sock", "old:0_1.engine.sock", "x.sock", "-;:0.sock"):
        (where.run / "poolmgr" / name).touch()
    out = where.run / "out"
    generate(where, out)
    assert (out / WANTS / program.STOPPER).readlink() == Path(f"../{program.STOPPER}")
    (line,) = [x for x in (out / program.STOPPER).read_text().splitlines() if "Exec" in x]
    assert line == (
        "ExecStart=systemctl stop --no-block poolmgr@old:0_1.service poolmgr@old:0_1.socket"
    )
    (where.run / "poolmgr" / "old:0_1.sock").unlink()
    generate(where, where.run / "later")
    assert not (where.run / "later" / program.STOPPER).exists()


@pytest.mark.req("SYSD-12")
def test_the_driver_s_own_word_on_the_nodes(where):
    where.config.write_text(pool("a", replicas="[[0]]"))
    drop_in = "poolmgr@a:0.service.d/50-orchd.conf"
    generate(where, where.run / "before")
    assert "195:0 " in (where.run / "before" / drop_in).read_text()
    for address, minor in (("0000:01:00.0", 1), ("0000:41:00.0", 0)):
        folder = where.gpus / address
        folder.mkdir(parents=True)
        text = f"Model: \t\t NVIDIA X\nGPU UUID: \t GPU-?\nDevice Minor: \t {minor}\n"
        (folder / "information").write_text(text + "GPU Excluded:\t No\n")
    assert gpus.minors(where.gpus) == (1, 0)
    generate(where, where.run / "after")  # the same file, but the driver is there now
    assert "195:1 " in (where.run / "after" / drop_in).read_text()
    (folder / "information").write_text("Model: X\n")
    assert gpus.minors(where.gpus) == ()


def test_a_token_is_neither_read_nor_missed_nor_kept(where, said, tmp_path):
    """It comes as a credential, later: the file may be right without one, or name one we lack."""
    where.config.write_text('bind_addr = "10.1.2.3:8484"\n' + pool("a"))
    assert made(where) == {"poolmgr@a:0"}
    where.config.write_text('auth_token = "file:/nonexistent"\n' + pool("a"))
    assert made(where) == {"poolmgr@a:0"}
    where.config.write_text('auth_token = "s3cret-s3cret"\n' + pool("b"))
    assert made(where) == {"poolmgr@b:0"}
    assert "s3cret" not in (where.run / program.KEPT).read_text()
    assert said == []


def test_whose_file_it_is():
    system = places({"SYSTEMD_SCOPE": "system", "HOME": "/root"})
    assert system[:3] == (Path("/etc/orchd/orchd.toml"), Path("/run"), False)
    mine = {"SYSTEMD_SCOPE": "user", "HOME": "/home/a", "XDG_RUNTIME_DIR": "/run/user/9"}
    own = places(mine)
    assert own[:3] == (Path("/home/a/.config/orchd/orchd.toml"), Path("/run/user/9"), True)
    assert places(mine | {"XDG_CONFIG_HOME": "/c"}).config == Path("/c/orchd/orchd.toml")


def test_it_never_raises(said, tmp_path):
    assert main(["x"]) == 1
    environ = {"SYSTEMD_SCOPE": "user", "XDG_RUNTIME_DIR": str(tmp_path), "HOME": str(tmp_path)}
    config = tmp_path / ".config/orchd/orchd.toml"
    config.mkdir(parents=True)  # a folder where the file should be
    assert main(["x", str(tmp_path / "out")], environ) == 0
    config.rmdir()
    config.write_text(pool("a"))
    (tmp_path / "file").touch()
    assert main(["x", str(tmp_path / "file")], environ) == 0  # no folder to write to
    assert [event for event, _ in said] == ["units_refused"] * 3


@given(
    pool_id=st.from_regex(ids.POOL_ID, fullmatch=True), mask=st.sets(st.integers(0, 63), min_size=1)
)
def test_every_replica_s_socket_is_known_as_one(pool_id, mask):
    name = ids.replica_id(ids.PoolId(pool_id), ids.DeviceMask(tuple(sorted(mask))))
    found = program._SOCKET.fullmatch(f"{name}.sock")
    assert found
    assert found[1] == name


@pytest.mark.req("SYSD-19")
def test_the_line_goes_to_the_journal_and_is_one(monkeypatch, tmp_path):
    address = str(tmp_path / "journal")
    monkeypatch.setattr(say, "JOURNAL", address)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(address)
        say.error("units_refused", "a\nMESSAGE=forged\x1b[31m" + "x" * 5000)
        record = journal.recv(65536).decode()
    fields = dict(line.split("=", 1) for line in record.splitlines())
    assert fields["MESSAGE"].startswith("a MESSAGE=forged [31mx")
    assert len(fields["MESSAGE"]) == say.MAX_CHARS
    assert (fields["EVENT"], fields["OBJECT_SYSTEMD_UNIT"]) == ("units_refused", "orchd.target")


def test_before_the_journal_runs_it_goes_to_the_kernel(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(say, "JOURNAL", str(tmp_path / "nobody"))
    kernel = tmp_path / "kmsg"
    kernel.touch()
    monkeypatch.setattr(say, "KMSG", kernel)
    say.error("e", "what is wrong")
    assert kernel.read_text() == "<3>orchd-generator: what is wrong\n"
    monkeypatch.setattr(say, "KMSG", tmp_path / "none")
    say.error("e", "what is wrong")
    assert capsys.readouterr().err == "orchd-generator: what is wrong\n"
    assert not (tmp_path / "none").exists()


@pytest.mark.req("SYSD-21")
def test_an_unchanged_file_imports_nothing_heavy(where):
    """The time itself is measured in a booted machine (tests/system)."""
    where.config.write_text(pool("a"))
    generate(where, where.run / "first")
    script = (
        "import sys; from pathlib import Path\n"
        "from orchd.generator.program import Places, generate\n"
        f"generate(Places(Path({str(where.config)!r}), Path({str(where.run)!r}), "
        f"gpus=Path({str(where.gpus)!r})), Path({str(where.run / 'second')!r}))\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.split())
    assert not loaded & {"attr", "attrs", "cattrs", "orjson", "xdg", "tomllib", "trio", "socket"}
    assert (where.run / "second" / WANTS / "poolmgr@a:0.service").is_symlink()
    first, second = (sorted(where.run.glob(f"{name}/**/*")) for name in ("first", "second"))
    assert [path.name for path in first] == [path.name for path in second]
