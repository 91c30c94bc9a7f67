# SPDX-License-Identifier: Apache-2.0
"""Does a kubelet renew its serving certificate by itself, before the one that it has ends?

Its client certificate, and one that was lost: test_fleet.py.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from tests.e2e.conftest import BOOT_S, Lab
from tests.support.fleet import Fleet, fleet
from tests.support.waiting import until

pytestmark = [
    pytest.mark.e2e, pytest.mark.nspawn, pytest.mark.root, pytest.mark.waits,
    pytest.mark.timeout(BOOT_S),
]  # fmt: skip

NAME = "renewing"
SERVING = "/var/lib/kubelet/pki/kubelet-server-current.pem"
SIGNER = "kube-controller-manager.service"
# A signer takes 5 minutes off a certificate's begin, and a kubelet renews after 70 to 90 % of its
# life (client-go's certificate manager): here 15 to 105 s after it was signed.
LIFE = timedelta(seconds=150)
SIGN_FOR_LESS = (
    f"sed -i 's|--cluster-signing-key-file=.*|--cluster-signing-duration={LIFE.seconds}s &|'"
    f" /etc/systemd/system/{SIGNER} && systemctl daemon-reload && systemctl restart {SIGNER}"
)


def test_a_serving_certificate_is_renewed_before_it_ends(lab: Lab, image: Path) -> None:
    assert image.exists()
    (node,) = lab.add_cluster(NAME)
    with fleet(lab.project, NAME) as made:
        made.boot([node])
        made.wait_ready()
        first = serving(made, node)
        assert first.not_valid_after_utc - datetime.now(UTC) > timedelta(days=300)
        made.inside(node, "/bin/sh", "-c", SIGN_FOR_LESS)
        made.inside(node, "/bin/sh", "-c", f"rm {SERVING.replace('current', '*')}")
        made.inside(node, "/usr/bin/systemctl", "restart", "kubelet.service")
        short = another(made, node, first)
        assert short.not_valid_after_utc - datetime.now(UTC) <= LIFE
        kubelet = made.main_pid(node, "kubelet.service")

        renewed = another(made, node, short)

        assert datetime.now(UTC) < short.not_valid_after_utc
        assert renewed.not_valid_after_utc > short.not_valid_after_utc
        assert renewed.issuer == short.issuer
        assert kubelet == made.main_pid(node, "kubelet.service") > 0
        assert shown(made, node) == renewed
        assert made.kubectl("get", "--raw", f"/api/v1/nodes/{node}/proxy/healthz").text == "ok"


def serving(made: Fleet, node: str) -> x509.Certificate:
    until(
        lambda: bool(made.certificates(node, SERVING)),
        what="a serving certificate", timeout_s=60,
    )  # fmt: skip
    return made.certificates(node, SERVING)[0]


def another(made: Fleet, node: str, before: x509.Certificate) -> x509.Certificate:
    until(
        lambda: made.has_another(node, SERVING, before),
        what="another serving certificate", timeout_s=180, every_s=1,
    )  # fmt: skip
    return serving(made, node)


def shown(made: Fleet, node: str) -> x509.Certificate:
    """Give what the kubelet answers with."""
    address = str(made.machines[node].address.ip)
    ask = f"import ssl; print(ssl.get_server_certificate(({address!r}, 10250)))"
    said = made.inside(node, "/usr/bin/python3", "-c", ask)
    return x509.load_pem_x509_certificate(said.stdout)
