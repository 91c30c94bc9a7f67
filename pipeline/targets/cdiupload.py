# SPDX-License-Identifier: Apache-2.0
"""How does a disk image get through CDI's upload proxy into its volume?

The proxy takes one stream and can't go on in the middle of one; an upload that broke off is sent
again from its beginning, into the same volume.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3

from kubekiln.errors import IntegrityError, KubekilnError
from kubekiln.secret import Secret
from pipeline.targets.kubeerrors import connection_error
from pipeline.targets.platform import Advance, DiskImage, TransientError

_CHUNK = 1 << 20
# CDI's proxy waits up to a minute for the upload server before it answers; while a stream is taken
# it may be written through to slow storage.
_STALL_S = 600.0
_TIMEOUT = urllib3.Timeout(connect=10.0, read=_STALL_S)
# Asynchronous: it answers when all bytes are there, and converts afterwards. The synchronous one
# holds the connection meanwhile, which proxies on the way cut off.
_UPLOAD, _HEALTH = "/v1beta1/upload-async", "/healthz"
_SHOWN = 300
_HINTS = {
    400: "`disk_gib` and the storage class say how large a volume is",
    404: "is `upload_proxy` CDI's? kubectl -n cdi get service cdi-uploadproxy",
    413: 'an ingress on the way limits sizes: nginx.ingress.kubernetes.io/proxy-body-size: "0"',
}


@dataclass(frozen=True)
class UploadProxy:
    """CDI's upload proxy, as it is reached from here."""

    url: str
    ca: Path | None = None
    name: str | None = None
    """In its certificate, where it isn't the host of the URL."""

    def trouble(self) -> str | None:
        """Ask whether it is there, and say what is wrong; sends nothing."""
        try:
            answer = self._pool().request("GET", f"{self.url}{_HEALTH}", retries=False)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            return str(connection_error(self.url, error).problems[0].what)
        return None if answer.status == 200 else f"{self.url}: HTTP {answer.status}"

    def send(self, image: DiskImage, token: Secret, advance: Advance) -> None:
        """Send the image's file; a raw one is compressed on its way.

        Raises TransientError, KubekilnError, or IntegrityError if the file isn't what it was.
        """
        stream = _Stream(image, advance)
        headers = {"Authorization": f"Bearer {token.reveal_text()}",
                   "Content-Type": "application/octet-stream"}  # fmt: skip
        if image.format != "raw":
            headers["Content-Length"] = str(image.size)
        try:
            with image.path.open("rb") as file:
                # Raw is mostly zeros. gzip ends with a checksum of all that was in it, which CDI
                # refuses to take otherwise: what is on the volume was then compared.
                body = stream.compressed(file) if image.format == "raw" else stream.plain(file)
                answer = self._pool().request(
                    "POST", f"{self.url}{_UPLOAD}", body=body, headers=headers,
                    retries=False, redirect=False,
                )  # fmt: skip
        except (urllib3.exceptions.HTTPError, ConnectionError) as error:
            raise connection_error(f"upload to {self.url}", error) from error
        _judge(self.url, answer.status, answer.data.decode(errors="replace").strip())
        if stream.sha256 != image.sha256:
            raise IntegrityError(
                f"{image.path} changed while it was uploaded",
                hint="bake it again: kubekiln image bake",
            )

    def _pool(self) -> urllib3.PoolManager:
        host = urlsplit(self.url).hostname or ""
        through = None if proxy_bypass(host) else getproxies().get("https")
        how: dict[str, Any] = {
            "cert_reqs": "CERT_REQUIRED", "ca_certs": str(self.ca) if self.ca else None,
            "server_hostname": self.name, "assert_hostname": self.name, "timeout": _TIMEOUT,
            "blocksize": _CHUNK,
        }  # fmt: skip
        pool = urllib3.ProxyManager(through, **how) if through else urllib3.PoolManager(**how)
        pool.pool_classes_by_scheme = {"https": _Pool}
        return pool


class _Connection(urllib3.connection.HTTPSConnection):
    """A connection that still reads the answer when the server stopped listening.

    urllib3 does so where the pipe broke, which TLS calls an unexpected end (bugs.python.org 42854).
    CDI answers that there is no room, and closes, while the image is still being sent.
    """

    def send(self, data: Any) -> None:
        if self.sock is not None:
            # urllib3 allows what is sent no more than the time for connecting.
            self.sock.settimeout(_STALL_S)
        try:
            super().send(data)
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError) as error:
            raise BrokenPipeError("the server stopped listening") from error


class _Pool(urllib3.connectionpool.HTTPSConnectionPool):
    ConnectionCls = _Connection


class _Stream:
    """The bytes of an image on their way, counted and hashed."""

    def __init__(self, image: DiskImage, advance: Advance) -> None:
        self._advance = advance
        self._hash = hashlib.sha256()
        self._left = image.size

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    def plain(self, file: io.BufferedReader) -> Iterator[bytes]:
        """Give the file piece by piece, and not more than was promised."""
        while self._left and (chunk := file.read(min(_CHUNK, self._left))):
            self._left -= len(chunk)
            self._hash.update(chunk)
            yield chunk
            self._advance(len(chunk))

    def compressed(self, file: io.BufferedReader) -> Iterator[bytes]:
        """Give the file piece by piece as gzip, quickly rather than small."""
        out = io.BytesIO()
        with gzip.GzipFile(fileobj=out, mode="wb", compresslevel=1, mtime=0) as packed:
            for chunk in self.plain(file):
                packed.write(chunk)
                if out.tell():
                    yield out.getvalue()
                    out.seek(0)
                    out.truncate()
        yield out.getvalue()


def _judge(url: str, status: int, said: str) -> None:
    """Raise for an answer that isn't success, by what CDI means with it."""
    if status == 200:
        return
    what = f"upload to {url}: HTTP {status}" + (f": {said[:_SHOWN]}" if said else "")
    if "larger than the reported available storage" in said:
        raise KubekilnError(what, hint="the storage class gave a volume that is too small")
    # 401: the token is good for five minutes. 409, 503: the upload server is busy with, or done
    # with, what an earlier attempt sent. 500: what it got it couldn't write.
    if status in (401, 408, 409, 429) or status >= 500:
        raise TransientError(what)
    raise KubekilnError(what, hint=_HINTS.get(status, "docs/platforms/kubevirt.md"))
