# SPDX-License-Identifier: Apache-2.0
"""Where are a cluster's secrets kept between two renderings, and how do they come to be?

`state/<cluster>/` (0700) holds the authorities, the keys and every certificate issued. Whoever has
it owns the cluster; whoever loses it can't add or replace a node. New secrets live in memory until
`commit`, which writes the marker of a complete state last: an interrupted first rendering is gone
on with, and a state that once was complete is never filled up silently.
"""

from __future__ import annotations

import base64
import secrets
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from cloudinit import pki
from cloudinit.model import Pki
from cloudinit.pki import KeyPair, LeafSpec
from kubekiln.errors import KubekilnError
from kubekiln.files import make_dir, sync_dir, write_atomic
from kubekiln.secret import Secret

FORMAT = "kubekiln-state 1\n"
_MARKER = "version"
_CERTIFICATE_START = b"-----BEGIN CERTIFICATE-----"


class StateError(KubekilnError):
    """The state directory is damaged, foreign, or of another format."""


@dataclass
class State:
    """A cluster's secrets: those on disk, and those made since that aren't yet."""

    directory: Path
    cluster: str
    config: Pki
    now: datetime
    is_new: bool
    _pending: dict[Path, bytes] = field(default_factory=dict, repr=False)
    _superseded: list[Path] = field(default_factory=list)
    _used: list[tuple[str, bytes]] = field(default_factory=list, repr=False)

    @classmethod
    def open(cls, directory: Path, *, cluster: str, config: Pki, now: datetime) -> State:
        """Open a state, or begin one where there is none; writes nothing.

        Raises StateError for a directory that holds something else.
        """
        marker = directory / _MARKER
        is_new = not marker.exists()
        if not is_new and marker.read_text() != FORMAT:
            raise StateError(
                f"state format {marker.read_text().strip()!r} is not {FORMAT.strip()!r}",
                where=str(marker),
                hint="use the kubekiln that wrote it",
            )
        return cls(directory, cluster, config, now, is_new)

    def authority(self, name: str) -> KeyPair:
        """Give a certificate authority: `kubernetes`, `etcd` or `front-proxy`."""
        path = self.directory / "authorities" / f"{name}.pem"
        stored = self._read(path)
        if stored is None:
            self._refuse_to_replace(path)
            common_name = f"{self.cluster} {name} CA"
            pair = pki.make_authority(
                common_name, algorithm=self.config.algorithm, days=self.config.ca_days, now=self.now
            )
            stored = self._keep(path, _join(pair))
        return _split(stored, path)

    def leaf(self, spec: LeafSpec) -> KeyPair:
        """Give the certificate for `spec`: the one issued before, or a new one.

        A new one is issued if the spec or the authority changed, or in the last third of its life.
        """
        authority = self.authority(spec.ca)
        kind = self.config.algorithm
        digest = spec.digest(
            algorithm=kind, days=self.config.leaf_days, issuer=authority.certificate
        )
        path = self.directory / "leaves" / f"{spec.name}.{digest[:16]}.pem"
        stored = self._read(path)
        if stored is not None and not self._is_aging(_split(stored, path).certificate):
            pair = _split(stored, path)
        else:
            pair = pki.issue_leaf(
                spec, authority, algorithm=kind, days=self.config.leaf_days, now=self.now
            )
            self._keep(path, _join(pair))
        others = path.parent.glob(f"{path.name.rsplit('.', 2)[0]}.*.pem")
        self._superseded += sorted(other for other in others if other != path)
        self._used.append((spec.name, pair.certificate))
        return pair

    def service_account_key(self) -> Secret:
        """Give the key that signs and verifies service-account tokens, one for the cluster."""
        path = self.directory / "keys" / "service-account.pem"
        stored = self._read(path)
        if stored is None:
            self._refuse_to_replace(path)
            stored = self._keep(path, pki.generate_key(self.config.algorithm).reveal())
        return Secret(stored)

    def encryption_key(self) -> Secret:
        """Give the key under which secrets rest in etcd: 32 bytes, base64."""
        path = self.directory / "keys" / "encryption.key"
        stored = self._read(path)
        if stored is None:
            self._refuse_to_replace(path)
            stored = self._keep(path, base64.b64encode(secrets.token_bytes(32)) + b"\n")
        return Secret(stored.strip())

    def days_left(self) -> tuple[str, int]:
        """Name the certificate that ends first among those used, and its days left."""
        ends = [(pki.validity(certificate)[1], name) for name, certificate in self._used]
        end, name = min(ends)
        return name, (end - self.now).days

    def commit(self) -> None:
        """Write what is new; each file at once or not at all, the marker last."""
        make_dir(self.directory, mode=0o700)
        for path, content in self._pending.items():
            for parent in reversed(path.relative_to(self.directory).parents):
                make_dir(self.directory / parent, mode=0o700)
            write_atomic(path, content, mode=0o600)
        for path in self._superseded:
            path.unlink(missing_ok=True)
        if self.is_new:
            sync_dir(self.directory)
            write_atomic(self.directory / _MARKER, FORMAT, mode=0o600)
        self._pending.clear()
        self._superseded.clear()
        self.is_new = False

    def _read(self, path: Path) -> bytes | None:
        if path in self._pending:
            return self._pending[path]
        return path.read_bytes() if path.exists() else None

    def _keep(self, path: Path, content: bytes) -> bytes:
        self._pending[path] = content
        return content

    def _refuse_to_replace(self, path: Path) -> None:
        if not self.is_new:
            raise StateError(
                f"the state of cluster {self.cluster} lacks {path.name}",
                where=str(path),
                hint="restore it from a backup: a new one would not fit the nodes that run",
            )

    def _is_aging(self, certificate: bytes) -> bool:
        start, end = pki.validity(certificate)
        return self.now > end - (end - start) / 3


def _join(pair: KeyPair) -> bytes:
    # One file, so that key and certificate can't come from two interrupted renderings.
    return pair.key.reveal() + pair.certificate


def _split(stored: bytes, path: Path) -> KeyPair:
    cut = stored.find(_CERTIFICATE_START)
    pair = KeyPair(Secret(stored[:cut]), stored[cut:])
    try:
        fits = cut > 0 and pki.belong_together(pair)
    except ValueError:
        fits = False
    if not fits:
        raise StateError(
            f"{path.name} does not hold a key and its certificate",
            where=str(path),
            hint="restore the state from a backup",
        )
    return pair
