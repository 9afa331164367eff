"""`s3://bucket/key`: requests signed by botocore, AWS's own client, which sends none itself.

botocore is an optional extra (`orchd[s3]`), imported when such a model is fetched: credentials,
region, endpoint and signatures are its business, as for any AWS tool (AWS_PROFILE,
AWS_ENDPOINT_URL_S3, ~/.aws). Without credentials a public bucket is asked unsigned. Credentials
that would have to be asked for over the network (SSO, instance metadata) are not used: such a
request would pass no policy.
"""

from __future__ import annotations

import html
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote_plus

from orchd.fetch.attempts import check, persist
from orchd.fetch.remote import Ask, RemoteFile
from orchd.kit import log
from orchd.policy.web import Web
from orchd.wire import address, modelref
from orchd.wire.errors import Kind, OrchError
from orchd.wire.modelref import S3Ref

if TYPE_CHECKING:
    from botocore.client import BaseClient

SIGNED_S: Final = 3600
"""How long one signed URL holds; each request gets its own."""
MAX_LISTING: Final = 16 << 20
MAX_PAGES: Final = 50
_LOCAL: Final = ("env", "shared-credentials-file", "config-file")
"""Providers of credentials that ask nobody."""
_OK: Final = frozenset({200})
_ROW: Final = re.compile(r"<Contents>.*?<Key>(.*?)</Key>.*?<Size>(\d{1,15})</Size>", re.DOTALL)
_MORE: Final = re.compile(r"<NextContinuationToken>(.*?)</NextContinuationToken>", re.DOTALL)


class Signer:
    """Signs URLs with the user's AWS settings. Asks nobody."""

    def __init__(self, client: BaseClient, *, signs: bool) -> None:
        self._client = client
        self.signs = signs
        """Whether there are credentials."""

    @property
    def endpoint(self) -> str:
        """Where requests go."""
        return str(self._client.meta.endpoint_url)

    def url(self, method: str, **parameters: str) -> str:
        """Return the URL of one request, good for SIGNED_S."""
        url: str = self._client.generate_presigned_url(
            method, Params=parameters, ExpiresIn=SIGNED_S
        )
        return url

    def hosts(self, bucket: str) -> tuple[str, ...]:
        """Return which hosts a bucket of this name is asked at."""
        url = address.parse(self.url("get_object", Bucket=bucket, Key="x"))
        return (url.origin.partition("://")[2],)


class S3:
    """One object, or all below a key that ends in `/`."""

    def __init__(self, ref: S3Ref, web: Web, signer: Signer) -> None:
        self._ref = ref
        self._web = web
        self._signer = signer

    async def listing(self) -> tuple[RemoteFile, ...]:
        """Return the object with its further parts, or the objects below the key."""
        key = self._ref.key
        if key.endswith("/"):
            return await self._below(key)
        folder, _, name = key.rpartition("/")
        if not modelref.safe_name(name):
            raise OrchError(Kind.FETCH_FAILED, f"the key's last part {name!r} names no file")
        prefix = f"{folder}/" if folder else ""
        return tuple(RemoteFile(name=one, place=prefix + one) for one in modelref.shards(name))

    def ask(self, file: RemoteFile) -> Ask:
        """Return a URL that is signed for this request."""
        return Ask(self._signer.url("get_object", Bucket=self._ref.bucket, Key=file.place))

    def refusal(self, status: int) -> str:
        """Return what a status may mean."""
        if status in (301, 307, 400):
            return "the bucket may be in another region: set AWS_REGION"
        if status == 403:
            return (
                "these credentials may not read it"
                if self._signer.signs
                else "it is not for everybody: set AWS_PROFILE or the credential aws_credentials"
            )
        return "there is no such bucket or key" if status == 404 else "not understood"

    async def _below(self, prefix: str) -> tuple[RemoteFile, ...]:
        found: list[RemoteFile] = []
        more: dict[str, str] = {}
        for _ in range(MAX_PAGES):
            url = self._signer.url(
                "list_objects_v2",
                Bucket=self._ref.bucket,
                Prefix=prefix,
                EncodingType="url",
                **more,
            )

            async def ask(url: str = url) -> str:
                async with self._web.get(url) as got:
                    check(got, self._ref.bucket, _OK, self.refusal)
                    return (await got.body(MAX_LISTING)).decode("utf-8", "replace")

            page = await persist(ask)
            for raw, size in _ROW.findall(page):
                key = unquote_plus(html.unescape(raw))
                if key.startswith(prefix) and not key.endswith("/"):
                    name = key.removeprefix(prefix)
                    found.append(RemoteFile(name=name, size=int(size), place=key))
            following = _MORE.search(page)
            if following is None:
                return tuple(found)
            more = {"ContinuationToken": html.unescape(following[1])}
        raise OrchError(Kind.FETCH_FAILED, f"{prefix} has more than {MAX_PAGES} pages of objects")


def configured() -> Signer:
    """Return the signer of the user's AWS settings. Raises OrchError(FETCH_FAILED)."""
    try:
        import botocore.session
        from botocore import UNSIGNED
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError
    except ImportError:
        raise OrchError(
            Kind.FETCH_FAILED,
            "s3: models need botocore, which is not installed: pip install 'orchd[s3]' "
            "(Arch: pacman -S python-botocore)",
        ) from None
    try:
        session = botocore.session.get_session()
        if given := os.environ.get("CREDENTIALS_DIRECTORY"):
            kept = Path(given, "aws_credentials")
            if kept.is_file():
                session.set_config_variable("credentials_file", str(kept))
        chain: Any = session.get_component("credential_provider")
        chain.providers = [one for one in chain.providers if one.METHOD in _LOCAL]
        credentials = session.get_credentials()
        if credentials is not None:
            for secret in (credentials.secret_key, credentials.token):
                log.add_secret(secret or "")
        signature = UNSIGNED if credentials is None else "s3v4"
        region = session.get_config_variable("region") or "us-east-1"
        config = Config(signature_version=signature, parameter_validation=True)
        client = session.create_client("s3", region_name=region, config=config)
    except BotoCoreError as exc:
        raise OrchError(Kind.FETCH_FAILED, f"the AWS settings cannot be used: {exc}") from exc
    return Signer(client, signs=credentials is not None)
