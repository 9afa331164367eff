"""An image with the real llama-server, as a registry has it: pulled by anything that speaks OCI.

Here: the image, laid out as docker-registry's storage, cached; the registry in a machine, with TLS.
Not here: a machine with podman, and GPUs for containers (boxes.py).
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path

from attrs import frozen

from tests.lab.cache import Cache
from tests.lab.llama import LlamaBuild, build_llama, cpu_backend
from tests.lab.machine import Machine

HOST = "registry.lab:5443"
NAME = "engines/llama"
TAG = "b1"
AUTHORITY = f"/etc/containers/certs.d/{HOST}/ca.crt"
"""Where podman's operator puts the certificate of a registry of his own."""
LEFT_OUT = ("root/usr/share", "root/var", "root/etc")
_TYPE = "application/vnd.oci.image"
STORAGE = Path("/srv/registry")
CONFIG = f"""
version: 0.1
log: {{level: error}}
storage:
    filesystem: {{rootdirectory: {STORAGE}}}
    maintenance: {{readonly: {{enabled: true}}}}
http:
    addr: "127.0.0.1:5443"
    tls: {{certificate: /etc/registry.pem, key: /etc/registry.pem}}
"""


@frozen
class Image:
    """An image in a registry's storage."""

    storage: Path
    digest: str

    @property
    def binds(self) -> dict[Path, Path]:
        """What a Machine needs for its registry."""
        return {self.storage: STORAGE}


def llama_image(cache: Cache) -> Image:
    """The cached image."""
    build = build_llama(LlamaBuild.DEBIAN, cache)
    inputs = {"build": str(build), "backend": str(cpu_backend(build)), "recipe": 1}
    folder = cache.build("image-llama", inputs, lambda folder: lay_out(folder, build))
    return Image(folder, (folder / "digest").read_text())


def lay_out(folder: Path, build: Path) -> None:
    """Write the image as docker-registry keeps it."""
    blobs = [owners(), program(build)]
    layers = [{"mediaType": f"{_TYPE}.layer.v1.tar", **put(folder, blob)} for blob in blobs]
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {
            "Entrypoint": [str(build / "llama-server")],
            "Env": [f"GGML_BACKEND_PATH={cpu_backend(build)}"],
            "User": "1234:42",
        },
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"] for layer in layers]},
    }
    described = {"mediaType": f"{_TYPE}.config.v1+json", **put(folder, as_json(config))}
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{_TYPE}.manifest.v1+json",
        "config": described,
        "layers": layers,
    }
    digest = str(put(folder, as_json(manifest))["digest"])
    repository = folder / "docker/registry/v2/repositories" / NAME
    for layer in (*layers, described):
        link(repository / "_layers", str(layer["digest"]))
    link(repository / "_manifests/revisions", digest)
    link(repository / "_manifests/tags" / TAG / "index", digest)
    current = repository / "_manifests/tags" / TAG / "current/link"
    current.parent.mkdir()
    current.write_text(digest)
    (folder / "digest").write_text(digest)
    folder.chmod(0o755)


def as_json(value: Mapping[str, object]) -> bytes:
    """The bytes of a JSON document."""
    return json.dumps(value).encode()


def put(folder: Path, blob: bytes) -> dict[str, object]:
    """Write one blob; returns its descriptor."""
    name = hashlib.sha256(blob).hexdigest()
    path = folder / "docker/registry/v2/blobs/sha256" / name[:2] / name / "data"
    path.parent.mkdir(parents=True)
    path.write_bytes(blob)
    return {"digest": f"sha256:{name}", "size": len(blob)}


def link(folder: Path, digest: str) -> None:
    """Say that a repository has a blob."""
    path = folder / digest.replace(":", "/") / "link"
    path.parent.mkdir(parents=True)
    path.write_text(digest)


def owners() -> bytes:
    """A layer as images have them: files of several owners, a set-uid program."""
    users = b"root:x:0:0::/root:/bin/sh\nengine:x:1234:42::/home/engine:/bin/sh\n"
    said = io.BytesIO()
    with tarfile.open(fileobj=said, mode="w") as tar:
        for name, data, mode, uid in (
            ("etc/passwd", users, 0o644, 0),
            ("home/engine/notes", b"mine\n", 0o600, 1234),
            ("usr/bin/up", b"#!/bin/sh\n", 0o4755, 0),
        ):
            member = tarfile.TarInfo(name)
            member.size, member.mode, member.uid, member.gid = len(data), mode, uid, uid and 42
            tar.addfile(member, io.BytesIO(data))
    return said.getvalue()


def program(build: Path) -> bytes:
    """A layer with llama-server and what it needs, at the paths that it was made for."""
    said = io.BytesIO()
    with tarfile.open(fileobj=said, mode="w") as tar:
        for path in sorted(build.rglob("*")):
            inside = path.relative_to(build).as_posix()
            if not inside.startswith(LEFT_OUT) and not path.is_dir():
                tar.add(path, str(path).lstrip("/"), recursive=False)
    return said.getvalue()


def start_registry(machine: Machine, certificate: Path, key: Path) -> None:
    """Start the registry in a machine that has docker-registry; nobody trusts it yet."""
    machine.put("/etc/registry.yml", CONFIG)
    machine.put("/etc/registry.pem", certificate.read_text() + key.read_text(), 0o600)
    host = HOST.partition(":")[0]
    machine.run(f"echo '127.0.0.1 {host}' >> /etc/hosts")
    unit = ["--quiet", "--unit=registry", "--setenv=OTEL_TRACES_EXPORTER=none"]
    machine.run(["systemd-run", *unit, "docker-registry", "serve", "/etc/registry.yml"])
    machine.wait_for(lambda: reachable(machine), 20, "the registry listens")


def trust(machine: Machine, certificate: Path, authority: str = AUTHORITY) -> None:
    """Trust the registry from now on."""
    machine.put(authority, certificate.read_text())


def reachable(machine: Machine) -> bool:
    """Whether the registry takes connections."""
    try:
        machine.connect_tcp(5443).close()
    except OSError:
        return False
    return True
