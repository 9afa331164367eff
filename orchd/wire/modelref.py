"""What a model reference names: a file here, or what is to be fetched. Text in, frozen classes out.

The forms are contract.md's (Models). Where a reference's files are asked for is orchd/fetch's; what
may be asked is orchd/policy's.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final
from urllib.parse import unquote, urlsplit

from attrs import frozen

_REMOTE: Final = re.compile(r"(?:hf|https?|s3|oci):", re.IGNORECASE)
_HUB_AT: Final = re.compile(
    r"hf:(?://)?(?P<repo>[\w.-]+/[\w.-]+)@(?P<revision>[\w.-]+)(?:/(?P<path>.+))?"
)
_HUB: Final = re.compile(r"hf:(?://)?(?P<repo>[\w.-]+/[\w.-]+)(?:/(?P<path>.+))?")
_S3: Final = re.compile(r"s3://(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])/(?P<key>[^?#]+)")
_OCI: Final = re.compile(
    r"oci://(?P<registry>[A-Za-z0-9.-]+(?::\d{1,5})?|\[[0-9A-Fa-f:]+\](?::\d{1,5})?)"
    r"/(?P<repository>[a-z0-9._/-]+?)"
    r"(?::(?P<tag>\w[\w.-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)
_SHARD: Final = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<end>\.\w+)")
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9._-]+")
MAX_SHARDS: Final = 1000
MAX_QUOTED: Final = 200  # characters of a wrong reference that its error repeats
MAX_SLUG: Final = 80  # characters of a cache folder's name before its hash


@frozen
class HubRef:
    """`hf:org/repo[@revision][/path/file]`: a repository of the Hugging Face Hub, or a file of one.

    A revision is a branch, a tag or a commit; without one it is `main`.
    """

    repo: str
    path: str = ""
    revision: str = "main"


@frozen
class WebRef:
    """`https://host/path/file`."""

    url: str


@frozen
class S3Ref:
    """`s3://bucket/key`; a key that ends in `/` is all that is below it. One with `?` or `#` cannot
    be named: behind these a reference is not shown."""

    bucket: str
    key: str


@frozen
class OciRef:
    """`oci://registry/repository:tag`, or `@sha256:...` in the place of the tag."""

    registry: str
    repository: str
    reference: str


RemoteRef = HubRef | WebRef | S3Ref | OciRef


def is_remote(text: str) -> bool:
    """Whether a reference names something elsewhere: no file, and no name of engine mock's."""
    return _REMOTE.match(text) is not None


def parse(text: str) -> RemoteRef:
    """Read a reference that is_remote. Raises ValueError that says the form."""
    if text.startswith("hf:"):
        return _hub(text)
    if text.startswith("https:"):
        return _web(text)
    if text.startswith("s3:"):
        match = _S3.fullmatch(text)
        if match is None:
            raise ValueError(f"must be s3://bucket/key, not {_quoted(text)}")
        return S3Ref(match["bucket"], match["key"])
    if text.startswith("oci:"):
        match = _OCI.fullmatch(text)
        if match is None or not (match["tag"] or match["digest"]):
            raise ValueError(
                f"must be oci://registry/repository:tag or ...@sha256:<hex>, not {_quoted(text)}"
            )
        return OciRef(match["registry"], match["repository"], match["digest"] or match["tag"])
    raise ValueError(
        f"must be hf:, https:, s3: or oci: (in lower case), or a file, not {_quoted(text)}"
    )


def _hub(text: str) -> HubRef:
    match = _HUB_AT.fullmatch(text) or _HUB.fullmatch(text)
    if match is None:
        raise ValueError(
            "must be hf:org/repo or hf:org/repo/path/file (a revision: hf:org/repo@v1), "
            f"not {_quoted(text)}"
        )
    said = match.groupdict()
    path = said["path"] or ""
    if not safe_name(path or "x"):
        raise ValueError(f"must name a file inside the repository, not {_quoted(path)}")
    return HubRef(said["repo"], path, said.get("revision") or "main")


def _web(text: str) -> WebRef:
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise ValueError("must be https://host[:port]/path/file") from None
    name = file_name(text)
    if not parts.hostname or port == 0 or not name or any(c.isspace() for c in text):
        raise ValueError(f"must be https://host[:port]/path/file, not {_quoted(text)}")
    if parts.username is not None or parts.password is not None:
        raise ValueError("must hold no user or password: a configuration is read by many")
    return WebRef(text)


def _quoted(text: str) -> str:
    bare = shown(text)
    return repr(bare if len(bare) <= MAX_QUOTED else f"{bare[:MAX_QUOTED]}...")


def file_name(url: str) -> str:
    """Return the last part of a URL's path, as a file may be called; empty where there is none."""
    name = unquote(urlsplit(url).path).rpartition("/")[2]
    return name if safe_name(name) else ""


def safe_name(name: str) -> bool:
    """Whether a relative path leads to a file below the folder that it begins in, on any system."""
    parts = name.split("/")
    return (
        0 < len(name) <= 512
        and all(part not in ("", ".", "..") and len(part.encode()) <= 255 for part in parts)
        and name.isprintable()
        and "\\" not in name
    )


def shards(name: str) -> tuple[str, ...]:
    """Return the names of all files of a model in several, of which `name` is one; else `name`.

    Raises ValueError for more than MAX_SHARDS.
    """
    match = _SHARD.fullmatch(name)
    if match is None:
        return (name,)
    count = int(match["count"])
    if not 0 < int(match["number"]) <= count <= MAX_SHARDS:
        raise ValueError(f"{name!r} is no part of 1 to {MAX_SHARDS}")
    return tuple(
        f"{match['stem']}-{number:05d}-of-{match['count']}{match['end']}"
        for number in range(1, count + 1)
    )


def entry_name(text: str) -> str:
    """Return the name of the folder that a reference has in a cache: readable, and one for each.

    Nothing of a query, in which a presigned URL has its secret, is in it.
    """
    slug = _UNSAFE.sub("-", shown(text).replace("://", ":")).strip("-.")
    return f"{slug[:MAX_SLUG]}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def model_ids(text: str, digest: str) -> tuple[str, str]:
    """Return what a fetched model may be called in the catalog: the readable name of its reference,
    and the same with the first digits of its digest, where another model has that name.

    `tiny` for `hf:org/repo/tiny.gguf`, `https://host/tiny-00001-of-00002.gguf`, `hf:org/tiny` and
    `s3://bucket/tiny/`; `tiny-v1` for `oci://host/tiny:v1`. Raises ValueError where it is no
    reference that is_remote.
    """
    match parse(shown(text)):
        case HubRef(repo, path):
            name = (path or repo).rpartition("/")[2]
        case WebRef(url):
            name = file_name(url)
        case S3Ref(_, key):
            name = key.rstrip("/").rpartition("/")[2]
        case OciRef(_, repository, tag):
            name = repository.rpartition("/")[2]
            name += "" if tag.startswith("sha256:") else f"-{tag}"
    shard = _SHARD.fullmatch(name)
    name = shard["stem"] if shard is not None else name.removesuffix(".gguf")
    name = _UNSAFE.sub("-", name).strip("-._")[:MAX_SLUG] or "model"
    return name, f"{name}-{digest.removeprefix('sha256:')[:8]}"


def shown(text: str) -> str:
    """Return the reference as anybody may see it: without query, fragment, user and password."""
    bare = re.split(r"[?#]", text, maxsplit=1)[0]
    return re.sub(r"://[^/]*@", "://", bare)
