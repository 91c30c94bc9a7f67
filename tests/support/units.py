# SPDX-License-Identifier: Apache-2.0
"""How are units verified, and which flags does CIS' benchmark want of a control plane?"""

from __future__ import annotations

import subprocess
from pathlib import Path


def verify(root: Path, names: list[str]) -> str:
    command = ["systemd-analyze", "verify", "--man=no", f"--root={root}", *names]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    return done.stdout + done.stderr


# CIS Kubernetes Benchmark, sections 1.2, 1.3 and 2.
CIS_APISERVER = {
    "--admission-control-config-file", "--audit-log-maxage=30", "--audit-log-maxbackup=10",
    "--audit-log-maxsize=100", "--audit-log-path", "--audit-policy-file",
    "--authentication-config", "--authorization-mode=Node,RBAC", "--client-ca-file",
    "--enable-admission-plugins=DenyServiceExternalIPs,EventRateLimit,NodeRestriction",
    "--encryption-provider-config", "--etcd-cafile", "--etcd-certfile", "--etcd-keyfile",
    "--kubelet-certificate-authority", "--kubelet-client-certificate", "--kubelet-client-key",
    "--profiling=false", "--request-timeout", "--service-account-extend-token-expiration=false",
    "--service-account-key-file", "--service-account-lookup=true", "--tls-cert-file",
    "--tls-cipher-suites", "--tls-private-key-file",
}  # fmt: skip
CIS_CONTROLLER_MANAGER = {
    "--bind-address=127.0.0.1", "--profiling=false", "--root-ca-file",
    "--service-account-private-key-file", "--terminated-pod-gc-threshold",
    "--use-service-account-credentials=true",
}  # fmt: skip
CIS_ETCD = {
    "--cert-file", "--client-cert-auth=true", "--data-dir=/var/lib/%N", "--key-file",
    "--peer-cert-file", "--peer-client-cert-auth=true", "--peer-key-file",
    "--peer-trusted-ca-file", "--trusted-ca-file",
}  # fmt: skip
