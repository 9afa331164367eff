"""Which source a reference has, and which hosts it names by that."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from orchd.fetch import hub, oci
from orchd.fetch.hub import Hub
from orchd.fetch.oci import Oci
from orchd.fetch.orders import Order
from orchd.fetch.plainweb import PlainWeb
from orchd.fetch.remote import Source
from orchd.kit import log
from orchd.policy import gate
from orchd.policy.configured import rules
from orchd.policy.hook import Outbound as Hook
from orchd.policy.rules import Named
from orchd.policy.web import Web
from orchd.wire import address
from orchd.wire.errors import Kind, OrchError
from orchd.wire.modelref import HubRef, OciRef, RemoteRef, S3Ref, WebRef

MAX_TOKEN: Final = 4096


def open_source(ref: RemoteRef, order: Order, environ: Mapping[str, str]) -> tuple[Source, Web]:
    """Return the source of a reference, and the web that may ask it and whom it names.

    Raises OrchError: FETCH_FAILED; CONFIG_INVALID for a plugin that cannot be used.
    """
    match ref:
        case HubRef():
            endpoint = environ.get("HF_ENDPOINT") or hub.DEFAULT_ENDPOINT
            usual = endpoint.rstrip("/") == hub.DEFAULT_ENDPOINT
            hosts = [_host(endpoint, "HF_ENDPOINT"), *(hub.CONTENT if usual else ())]
            web = _web(hosts, order)
            return Hub(ref, web, endpoint, _token(environ)), web
        case WebRef(url):
            return PlainWeb(ref), _web([_host(url, "the reference")], order)
        case OciRef(registry):
            hosts = [_host(oci.base_url(registry), "the reference")]
            web = _web(hosts, order)
            return Oci(ref, web, environ), web
        case S3Ref(bucket):
            from orchd.fetch.s3 import S3, configured  # botocore is an extra, and takes 0.3 s

            signer = configured()
            host = _host(signer.endpoint, "AWS_ENDPOINT_URL")
            # the bucket is a name below the endpoint's, or a part of the path
            web = _web([host, f"{bucket}.{host}", *signer.hosts(bucket)], order)
            return S3(ref, web, signer), web


def _web(hosts: list[str], order: Order) -> Web:
    """Return what sends requests: to `hosts`, where something of the configuration names them."""
    by, outbound = order.named_by, order.outbound
    named = [] if by is None else [Named(pattern=host, by=by) for host in dict.fromkeys(hosts)]
    door = Hook(rules(outbound, named), order.purpose, gate=gate.load(order.plugins))
    return Web(door, outbound.proxy)


def _host(url: str, what: str) -> str:
    """Return the pattern for a URL's host and port."""
    try:
        return address.parse(url).origin.partition("://")[2]
    except ValueError as exc:
        raise OrchError(Kind.FETCH_FAILED, f"{what} cannot be asked: {exc}") from None


def _token(environ: Mapping[str, str]) -> str | None:
    """Return the Hub's token: the credential hf_token, HF_TOKEN, or what `hf auth login` left."""
    places = []
    if credentials := environ.get("CREDENTIALS_DIRECTORY"):
        places.append(Path(credentials, "hf_token"))
    token = _read(places)
    if token is None and not (token := environ.get("HF_TOKEN", "").strip()):
        home = environ.get("HF_HOME") or Path(environ.get("HOME", "/"), ".cache/huggingface")
        token = _read([Path(home, "token")])
    if token is None or not token.isascii() or not token.isprintable():
        return None
    log.add_secret(token)
    return token


def _read(places: list[Path]) -> str | None:
    for place in places:
        try:
            with place.open() as file:
                return file.read(MAX_TOKEN).strip() or None
        except (OSError, UnicodeError):
            continue
    return None
