"""S3: AWS, MinIO, SeaweedFS and what else speaks it.

Owns: the calls, and what the answers of different servers mean. Must not: retry (`remote` does).

Endpoint, region and credentials come from the usual variables and files (AWS_ENDPOINT_URL, AWS_REGION,
AWS_ACCESS_KEY_ID, ~/.aws/...). An object is created by a conditional PUT (If-None-Match: *) and carries its writer's
token as metadata. The client library's own retries are off: it would not tell us of a lost answer.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, NamedTuple

from bytemq.errors import BytemqError, Full, Invalid, NotFound, Unavailable
from bytemq.runtime.logging import get_logger
from bytemq.runtime.seekable import Seekable
from bytemq.storage.stores.interface import ObjectInfo
from bytemq.storage.stores.remote import Head, Refused

log = get_logger("storage.s3")

DEFAULT_REGION = "us-east-1"
CONNECTIONS = 64
CONNECT_TIMEOUT_S = 3.0
READ_TIMEOUT_S = 10.0
TOKEN_KEY = "bytemq-writer"  # a name, not a secret

_EXISTS = {"PreconditionFailed", "412"}
_MISSING = {"NoSuchKey", "NotFound", "404"}
_NO_BUCKET = {"NoSuchBucket"}
_FULL = {"XMinioStorageFull", "InsufficientStorage", "507", "QuotaExceeded"}
_REFUSED = {
    "AccessDenied",
    "403",
    "Forbidden",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "InvalidToken",
    "ExpiredToken",
}
_PAST_THE_END = {"InvalidRange", "416"}


class S3Place(NamedTuple):
    """What a URL says beyond bucket and prefix; "": as the usual variables and files say."""

    endpoint: str = ""
    region: str = ""
    profile: str = ""
    """Of the usual files: credentials, and endpoint and region where the URL names none."""


class S3Driver:
    """Implements `remote.Driver` for the objects below `prefix` ("" or with a "/" at the end) of one bucket."""

    def __init__(self, client: Any, region: str, bucket: str, prefix: str, parts: AsyncExitStack) -> None:
        self._client = client
        self._region = region
        self._bucket = bucket
        self._prefix = prefix
        self._parts = parts

    @classmethod
    async def open(cls, bucket: str, prefix: str, place: S3Place) -> S3Driver:
        """Asks the store for nothing yet. Raises Invalid with a sentence for the user."""
        try:
            from aiobotocore.config import AioConfig
            from aiobotocore.session import AioSession
            from botocore.exceptions import BotoCoreError
        except ImportError as error:
            raise Invalid("storage on s3:// needs the package's extra: pip install 'bytemq[s3]'") from error
        config = AioConfig(
            connect_timeout=CONNECT_TIMEOUT_S,
            read_timeout=READ_TIMEOUT_S,
            max_pool_connections=CONNECTIONS,
            signature_version="s3v4",  # of signed URLs as well, which would be of the version that AWS gives up
            retries={"total_max_attempts": 1},
            s3={"payload_signing_enabled": False},  # our own checksums are in the bytes, and SHA-256 is slow
            # Servers other than AWS do not know the newer checksums.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        usual = "" if place.profile else os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        async with AsyncExitStack() as parts:
            try:
                session = AioSession(profile=place.profile or None)
                region = place.region or usual or session.get_config_variable("region") or DEFAULT_REGION
                client = await parts.enter_async_context(
                    session.create_client("s3", region, endpoint_url=place.endpoint or None, config=config)
                )
            except (BotoCoreError, ValueError) as error:
                raise Invalid(f"the settings of S3 make no sense: {error}") from error
            return cls(client, region, bucket, prefix, parts.pop_all())

    async def prepare(self) -> None:
        """Makes the bucket if there is none."""
        try:
            async with _translated(self._bucket):
                await self._client.head_bucket(Bucket=self._bucket)
            return
        except NotFound:
            log.info("the bucket does not exist, it is made", bucket=self._bucket)
        arguments: dict[str, Any] = {"Bucket": self._bucket}
        if self._region != DEFAULT_REGION:
            arguments["CreateBucketConfiguration"] = {"LocationConstraint": self._region}
        try:
            async with _translated(self._bucket):
                await self._client.create_bucket(**arguments)
        except Unavailable:
            # Another node may have made it at the same time, which servers report in their own ways.
            async with _translated(self._bucket):
                await self._client.head_bucket(Bucket=self._bucket)

    async def put(self, name: str, data: bytes | memoryview, token: str) -> None:
        async with _translated(name):
            await self._client.put_object(
                Bucket=self._bucket,
                Key=self._prefix + name,
                Body=_ViewReader(data) if isinstance(data, memoryview) else data,
                IfNoneMatch="*",
                Metadata={TOKEN_KEY: token},
            )

    async def get(self, name: str, position: int, size_bytes: int | None) -> bytes:
        arguments = {"Bucket": self._bucket, "Key": self._prefix + name}
        if position or size_bytes is not None:
            arguments["Range"] = f"bytes={position}-{'' if size_bytes is None else position + size_bytes - 1}"
        try:
            async with _translated(name):
                answer = await self._client.get_object(**arguments)
                async with answer["Body"] as body:
                    data: bytes = await body.read()
        except _PastTheEnd:
            return b""
        if len(data) != answer["ContentLength"]:
            raise Unavailable(f"{name}: the answer ended after {len(data)} of {answer['ContentLength']} bytes")
        return data

    async def head(self, name: str) -> Head:
        async with _translated(name):
            answer = await self._client.head_object(Bucket=self._bucket, Key=self._prefix + name)
        return Head(answer["ContentLength"], answer.get("Metadata", {}).get(TOKEN_KEY))

    async def list(self, prefix: str) -> Sequence[ObjectInfo]:
        found: list[ObjectInfo] = []
        async with _translated(prefix):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._prefix + prefix
            )
            async for page in pages:
                found.extend(
                    ObjectInfo(entry["Key"].removeprefix(self._prefix), entry["Size"])
                    for entry in page.get("Contents", ())
                )
        return found

    async def delete(self, names: Sequence[str]) -> None:
        async with _translated("delete"):
            answer = await self._client.delete_objects(
                Bucket=self._bucket,
                Delete={"Objects": [{"Key": self._prefix + name} for name in names], "Quiet": True},
            )
        for problem in answer.get("Errors", ()):
            if problem.get("Code") not in _MISSING:
                raise Unavailable(f"{problem.get('Key')} was not deleted: {problem.get('Message')}")

    async def sign(self, name: str, seconds: int) -> str:
        async with _translated(name):
            arguments = {"Bucket": self._bucket, "Key": self._prefix + name}
            url: str = await self._client.generate_presigned_url("get_object", Params=arguments, ExpiresIn=seconds)
        return url

    async def close(self) -> None:
        await self._parts.aclose()


class _ViewReader(Seekable):
    """What the client library takes for an open file, and sends piece by piece."""

    def __init__(self, view: memoryview) -> None:
        super().__init__(len(view))
        self._view = view

    def read(self, size: int = -1) -> bytes:
        stop = len(self._view) if size < 0 else self._position + size
        data = bytes(self._view[self._position : stop])
        self._position += len(data)
        return data


class _PastTheEnd(BytemqError):
    """A range that starts behind the object's end."""


@asynccontextmanager
async def _translated(what: str) -> AsyncIterator[None]:
    """Errors of the client library as ours, by what the caller must do."""
    import aiohttp
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError, SSLError

    try:
        yield
    except ClientError as error:
        raise _error_of(what, error.response.get("Error", {}), error.response.get("ResponseMetadata", {})) from error
    except (NoCredentialsError, PartialCredentialsError) as error:
        raise Invalid(
            "no credentials for S3: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the machine a role"
        ) from error
    except SSLError as error:
        raise Unavailable(f"{what}: {error}. AWS_CA_BUNDLE names the file of an authority of your own") from error
    except (BotoCoreError, aiohttp.ClientError, TimeoutError, OSError) as error:
        raise Unavailable(f"{what}: {error or type(error).__name__}") from error


def _error_of(what: str, error: dict[str, Any], metadata: dict[str, Any]) -> BytemqError:
    status = str(metadata.get("HTTPStatusCode", ""))
    codes = {str(error.get("Code", "")), status}
    message = f"{what}: {error.get('Message') or error.get('Code') or 'status ' + status}"
    if codes & _EXISTS:
        return Invalid(f"{what} exists")
    if codes & _NO_BUCKET:
        return NotFound(f"{message} (the bucket does not exist)")
    if codes & _PAST_THE_END:
        return _PastTheEnd(message)
    if codes & _REFUSED:
        return Refused(f"{message}: the store refuses these credentials ({', '.join(sorted(codes))})")
    if codes & _MISSING:
        return NotFound(message)
    if codes & _FULL:
        return Full(message)
    return Unavailable(message)
