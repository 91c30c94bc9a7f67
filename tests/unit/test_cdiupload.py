# SPDX-License-Identifier: Apache-2.0
"""Is what CDI's upload proxy says, or its certificate, told as what it is?"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from ipaddress import IPv4Address
from pathlib import Path

import pytest
import urllib3

from cloudinit.pki import Issuer, LeafSpec, issue_leaf, make_authority
from kubekiln.errors import KubekilnError
from kubekiln.secret import Secret
from pipeline.targets.cdiupload import UploadProxy
from pipeline.targets.platform import TransientError
from tests.support.disks import as_image


@contextlib.contextmanager
def answering(directory: Path, answer: bytes, *, after: int) -> Iterator[tuple[int, Path]]:
    """Serve TLS on a port: read `after` bytes, answer, close; give the port and the authority.

    It closes as Go's server does (rstAvoidanceDelay): no more is read, and the answer gets out.
    """
    now = datetime.now(UTC)
    authority = make_authority("test", algorithm="p256", days=1, now=now)
    spec = LeafSpec("s", "test", "s", ("server",), addresses=(IPv4Address("127.0.0.1"),))
    pair = issue_leaf(spec, Issuer.load(authority), algorithm="p256", days=1, now=now)
    files = {"ca": authority.certificate, "crt": pair.certificate, "key": pair.key.reveal()}
    for name, content in files.items():
        (directory / name).write_bytes(content)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(directory / "crt", directory / "key")

    read = threading.Event()

    def serve() -> None:
        client, _ = listener.accept()
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(OSError), tls.wrap_socket(client, server_side=True) as one:
            left = after
            while left > 0 and (piece := one.recv(min(left, 1 << 16))):
                left -= len(piece)
            one.sendall(answer)
            one.shutdown(socket.SHUT_WR)
            read.wait(0.5)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1], directory / "ca"
        finally:
            read.set()
            thread.join()


def test_a_refusal_that_comes_while_the_image_is_sent_is_read(tmp_path: Path) -> None:
    said = (
        b"Saving stream failed: effective image size is larger than the reported available storage"
    )
    answer = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b"
    image = as_image(tmp_path / "image.qcow2", "qcow2", b"x" * (24 << 20))

    with (
        answering(tmp_path, answer % (len(said), said), after=100_000) as (port, ca),
        pytest.raises(KubekilnError) as raised,
    ):
        UploadProxy(f"https://127.0.0.1:{port}", ca).send(image, Secret("token"), lambda _n: None)

    assert not isinstance(raised.value, TransientError)
    assert "too small" in str(raised.value.problems[0].hint)
    assert "token" not in str(raised.value)


def test_a_certificate_nobody_vouches_for_is_not_tried_again(tmp_path: Path) -> None:
    image = as_image(tmp_path / "image.qcow2", "qcow2")
    with (
        answering(tmp_path, b"", after=1) as (port, _),
        pytest.raises(KubekilnError, match="isn't believed") as raised,
    ):
        UploadProxy(f"https://127.0.0.1:{port}").send(image, Secret("token"), lambda _n: None)

    assert not isinstance(raised.value, TransientError)


@pytest.mark.parametrize(("but", "through"), [("", True), ("cdi.example", False)])
def test_the_host_s_proxy_is_used_as_its_user_said(
    monkeypatch: pytest.MonkeyPatch, but: str, through: bool
) -> None:
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    monkeypatch.setenv("no_proxy", but)

    pool = UploadProxy("https://cdi.example")._pool()

    assert isinstance(pool, urllib3.ProxyManager) == through
