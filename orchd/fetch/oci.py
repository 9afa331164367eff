"""`oci://registry/repository:tag`: the files of an artifact, by the distribution specification.

Its HTTP API by hand (OCI distribution-spec 1.1, Pull), and not oras-py: so every request passes the
policy, and each blob is known by its sha256 before it comes. Tokens are asked for as registries
say (WWW-Authenticate: Bearer); users and passwords come from podman's and docker's auth files.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

import orjson

from orchd.fetch.attempts import check, persist
from orchd.fetch.remote import Ask, RemoteFile
from orchd.kit import log
from orchd.policy.web import Web
from orchd.wire import address
from orchd.wire.errors import Kind, OrchError
from orchd.wire.modelref import OciRef

MAX_MANIFEST: Final = 4 << 20  # the specification asks registries to take that much
MAX_AUTH_FILE: Final = 1 << 20
MANIFESTS: Final = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
TITLE: Final = "org.opencontainers.image.title"
"""Annotation of a layer that is one file: its name (OCI image-spec, annotations)."""
_TYPES: Final = {
    "application/vnd.ollama.image.model": "model.gguf",
    "application/vnd.docker.ai.gguf.v3": "model.gguf",
}
"""Layers that are a model and have no title: what the registries of Ollama and Docker hold."""
_ANSWERED: Final = frozenset({200, 401})
_OK: Final = frozenset({200})
_DIGEST: Final = re.compile(r"sha256:([0-9a-f]{64})")
_PARAMETER: Final = re.compile(r'(\w+)="([^"]*)"')


class Oci:
    """One artifact."""

    def __init__(self, ref: OciRef, web: Web, environ: Mapping[str, str]) -> None:
        self._ref = ref
        self._web = web
        self._basic = _login(ref.registry, environ)
        self._headers: dict[str, str] = {}
        self._base = f"{base_url(ref.registry)}/v2/{ref.repository}"

    async def listing(self) -> tuple[RemoteFile, ...]:
        """Return the artifact's layers that are files."""
        manifest = await persist(self._manifest)
        layers = manifest.get("layers") if isinstance(manifest, dict) else None
        if not isinstance(layers, list):
            raise self._odd("it is no artifact with layers (an index names one by its digest)")
        found = [file for file in map(_file, layers) if file is not None]
        if not found:
            raise self._odd("none of its layers is a file: they have no title")
        return tuple(found)

    def ask(self, file: RemoteFile) -> Ask:
        """Return how to ask for a layer."""
        return Ask(f"{self._base}/blobs/{file.place}", self._headers)

    def refusal(self, status: int) -> str:
        """Return what a status may mean."""
        if status in (401, 403):
            return f"it is not for everybody: podman login {self._ref.registry}"
        return "there is no such repository or tag" if status == 404 else "not understood"

    async def _manifest(self) -> Any:
        url = f"{self._base}/manifests/{self._ref.reference}"
        accept = {"Accept": ", ".join(MANIFESTS)}
        async with self._web.get(url, headers={**self._headers, **accept}) as got:
            check(got, self._ref.repository, _ANSWERED, self.refusal)
            data = await got.body(MAX_MANIFEST)
            challenge = got.headers.get("www-authenticate", "")
        if got.status == 401:
            if self._headers:
                raise self._odd(self.refusal(401))
            self._headers = await self._authorised(challenge)
            return await self._manifest()
        match = _DIGEST.fullmatch(self._ref.reference)
        if match is not None and hashlib.sha256(data).hexdigest() != match[1]:
            raise OrchError(Kind.DIGEST_MISMATCH, f"{url} is not what its digest says")
        try:
            return orjson.loads(data)
        except orjson.JSONDecodeError:
            raise self._odd("its manifest is no JSON") from None

    async def _authorised(self, challenge: str) -> dict[str, str]:
        """Answer a WWW-Authenticate header: with the login itself, or a token that it is worth."""
        scheme, _, rest = challenge.partition(" ")
        if scheme.lower() == "basic" and self._basic is not None:
            return {"Authorization": f"Basic {self._basic}"}
        said = dict(_PARAMETER.findall(rest))
        realm = said.get("realm", "")
        if scheme.lower() != "bearer" or not realm:
            raise self._odd(self.refusal(401))
        scope = said.get("scope") or f"repository:{self._ref.repository}:pull"
        query = urlencode({"service": said.get("service", ""), "scope": scope})
        headers = {} if self._basic is None else self._login_for(realm)
        url = f"{realm}{'&' if '?' in realm else '?'}{query}"
        async with self._web.get(url, headers=headers) as got:
            check(got, "a token", _OK, self.refusal)
            try:
                answer = orjson.loads(await got.body(MAX_MANIFEST))
                token = answer.get("token") or answer["access_token"]
            except (orjson.JSONDecodeError, AttributeError, KeyError):
                raise self._odd("its registry gives no token") from None
        if not isinstance(token, str) or not token.isascii() or not token.isprintable():
            raise self._odd("its registry gives no token")
        log.add_secret(token)
        return {"Authorization": f"Bearer {token}"}

    def _login_for(self, realm: str) -> dict[str, str]:
        """The login goes to the registry's own domain and to no other, whatever a realm says."""
        mine, theirs = self._ref.registry.partition(":")[0], ""
        try:
            theirs = address.parse(realm).host
        except ValueError:
            pass
        domain = mine.split(".", 1)[1] if mine.count(".") > 1 else mine
        if theirs == mine or theirs.endswith(f".{domain}"):
            return {"Authorization": f"Basic {self._basic}"}
        return {}

    def _odd(self, why: str) -> OrchError:
        return OrchError(
            Kind.FETCH_FAILED, f"oci://{self._ref.registry}/{self._ref.repository}: {why}"
        )


def base_url(registry: str) -> str:
    """Return a registry's address. One on this machine speaks HTTP, as docker has it too."""
    here = address.parse(f"https://{registry}/").loopback
    return f"{'http' if here else 'https'}://{registry}"


def _file(layer: object) -> RemoteFile | None:
    if not isinstance(layer, dict):
        return None
    notes = layer.get("annotations")
    title = notes.get(TITLE) if isinstance(notes, dict) else None
    name = title or _TYPES.get(str(layer.get("mediaType")))
    match = _DIGEST.fullmatch(str(layer.get("digest")))
    size = layer.get("size")
    if not isinstance(name, str) or match is None or type(size) is not int or size < 0:
        return None
    return RemoteFile(name=name, size=size, sha256=match[1], place=match[0])


def _login(registry: str, environ: Mapping[str, str]) -> str | None:
    """Return `user:password` in base64 for a registry, as podman login left it; None: none."""
    home = environ.get("HOME", "")
    places = (
        environ.get("REGISTRY_AUTH_FILE"),
        _below(environ.get("CREDENTIALS_DIRECTORY"), "registry_auth"),
        _below(environ.get("XDG_RUNTIME_DIR"), "containers/auth.json"),
        _below(home, ".config/containers/auth.json"),
        _below(home, ".docker/config.json"),
    )
    for place in filter(None, places):
        try:
            with Path(place).open("rb") as file:
                auths = orjson.loads(file.read(MAX_AUTH_FILE)).get("auths", {})
            auth = auths[registry]["auth"]
            log.add_secret(auth)
            log.add_secret(base64.b64decode(auth).decode().partition(":")[2])
            return str(auth)
        except (OSError, ValueError, KeyError, AttributeError, TypeError):
            continue  # not there, or not of this form: the next place may have it
    return None


def _below(folder: str | None, name: str) -> str | None:
    return os.path.join(folder, name) if folder else None  # noqa: PTH118 - words, not yet a path
