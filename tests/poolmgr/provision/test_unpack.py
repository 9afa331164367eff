"""Archives of strangers: what is taken, and that nothing lands beyond the folder."""

from __future__ import annotations

import io
import stat
import tarfile
import zipfile

import pytest

from orchd.wire.errors import Kind, OrchError
from poolmgr.provision.bringing import unpack as unpacking
from poolmgr.provision.bringing.download import program
from poolmgr.provision.bringing.unpack import unpack

LINK = 0o120777 << 16


def nothing() -> None:
    return None


def tar(path, *members, mode="w:gz"):
    """`(name, bytes)` is a file, `(name, "-> target")` a link, `(name, None)` a folder."""
    with tarfile.open(path, mode) as made:
        for name, what, *more in members:
            info = tarfile.TarInfo(name)
            info.mode = 0o755
            if what is None:
                info.type = tarfile.DIRTYPE
            elif isinstance(what, str):
                info.type, info.linkname = tarfile.SYMTYPE, what
            else:
                info.size = len(what)
            for key, value in more:
                setattr(info, key, value)
            data = io.BytesIO(what) if isinstance(what, bytes) else None
            made.addfile(info, data)
    return path


@pytest.mark.parametrize("mode", ["w:gz", "w:xz", "w:bz2", "w"])
def test_a_tar_is_unpacked_with_its_links(tmp_path, mode):
    archive = tar(
        tmp_path / "a.tar",
        ("b/bin/llama-server", b"\x7fELF", ("mode", 0o4755)),
        ("b/lib/libx.so.1", b"x", ("mode", 0o644)),
        ("b/lib/libx.so", "libx.so.1"),
        ("b/empty", None),
        mode=mode,
    )
    ticks: list[None] = []
    unpack(archive, tmp_path / "out", lambda: ticks.append(None))
    made = tmp_path / "out/b"
    assert (made / "lib/libx.so").read_bytes() == b"x"
    assert (made / "empty").is_dir()
    # set-uid is not taken over
    assert stat.S_IMODE((made / "bin/llama-server").stat().st_mode) == 0o755
    assert program(tmp_path / "out", "llama-server") == made / "bin/llama-server"
    assert program(tmp_path / "out", "b/bin/llama-server") == made / "bin/llama-server"
    assert len(ticks) == 2


def test_a_zip_and_a_bare_program_are_taken(tmp_path):
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as made:
        info = zipfile.ZipInfo("bin/llama-server")
        info.external_attr = 0o100755 << 16
        made.writestr(info, b"\x7fELF")
        link = zipfile.ZipInfo("bin/other")
        link.external_attr = LINK
        made.writestr(link, "llama-server")
    unpack(archive, tmp_path / "out", nothing)
    assert (tmp_path / "out/bin/other").resolve() == tmp_path / "out/bin/llama-server"
    assert program(tmp_path / "out", "llama-server").stat().st_mode & 0o111
    bare = tmp_path / "llama-server-linux"
    bare.write_bytes(b"\x7fELF...")
    unpack(bare, tmp_path / "bare", nothing)
    assert program(tmp_path / "bare", "llama-server") == tmp_path / "bare/llama-server-linux"


@pytest.mark.parametrize(
    ("members", "why"),
    [
        ([("../evil", b"x")], "leads out"),
        ([("a/../../evil", b"x")], "leads out"),
        ([("/etc/evil", b"x")], "no name below"),
        ([("a\\..\\evil", b"x")], "no name below"),
        ([("out", "b"), ("out/evil", b"x")], "behind a link"),
        ([("out", "/etc")], "absolute path"),
        ([("a/out", "../../etc")], "leads out"),
        ([(".", "here"), ("x", b"x")], "behind a link"),
        ([("d", "."), ("d/up", "..")], "behind a link"),
        ([("dev", b"", ("type", tarfile.CHRTYPE))], "neither a file"),
        ([("pipe", b"", ("type", tarfile.FIFOTYPE))], "neither a file"),
        ([("hard", b"", ("type", tarfile.LNKTYPE), ("linkname", "/etc/passwd"))], "neither a file"),
    ],
)
def test_what_would_land_elsewhere_is_refused_as_a_whole(tmp_path, members, why):
    archive = tar(tmp_path / "a.tar.gz", ("first", b"x"), *members)
    out = tmp_path / "deep" / "er" / "out"
    with pytest.raises(OrchError) as caught:
        unpack(archive, out, nothing)
    assert caught.value.kind is Kind.PROVISION_FAILED
    assert why in caught.value.message
    assert list(out.iterdir()) == []
    everything = [path.name for path in tmp_path.rglob("*")]
    assert "evil" not in everything


def test_a_zip_that_leads_out_is_refused(tmp_path):
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as made:
        link = zipfile.ZipInfo("bin")
        link.external_attr = LINK
        made.writestr(link, "../../..")
    with pytest.raises(OrchError, match="leads out"):
        unpack(archive, tmp_path / "out", nothing)


def test_too_much_is_refused(tmp_path, monkeypatch):
    archive = tar(tmp_path / "a.tar.gz", *((f"f{n}", b"x" * 1000) for n in range(20)))
    monkeypatch.setattr(unpacking, "MAX_MEMBERS", 10)
    with pytest.raises(OrchError, match="more than 10 members"):
        unpack(archive, tmp_path / "a", nothing)
    monkeypatch.setattr(unpacking, "MAX_MEMBERS", 100)
    monkeypatch.setattr(unpacking, "MAX_BYTES", 10_000)
    with pytest.raises(OrchError, match="unpacks to more than"):
        unpack(archive, tmp_path / "b", nothing)


def test_an_archive_that_is_cut_off_is_refused(tmp_path):
    whole = tar(tmp_path / "a.tar.gz", ("big", bytes(range(256)) * 4096)).read_bytes()
    for name, data in (("cut.tar.gz", whole[: len(whole) // 2]), ("no.tar.gz", b"hello")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(OrchError) as caught:
            unpack(tmp_path / name, tmp_path / f"out-{name}", nothing)
        assert caught.value.kind is Kind.PROVISION_FAILED


def test_a_program_has_to_be_one_and_inside(tmp_path):
    for names, words in (((), "no llama"), (("a/llama-server", "b/llama-server"), "several")):
        folder = tmp_path / f"n{len(names)}"
        folder.mkdir()
        for name in names:
            (folder / name).parent.mkdir()
            (folder / name).write_text("")
        with pytest.raises(OrchError, match=words):
            program(folder, "llama-server")
    plain = tmp_path / "plain"
    plain.mkdir()
    (plain / "llama-server").write_text("")
    with pytest.raises(OrchError, match="is no program"):
        program(plain, "llama-server")
    with pytest.raises(OrchError, match="has no"):
        program(plain, "../n2/a/llama-server")
