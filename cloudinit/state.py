# SPDX-License-Identifier: Apache-2.0
"""Where are a cluster's secrets kept between two renderings, and how do they come to be?

`state/<cluster>/state` (0600 in 0700) holds the authorities, the keys and every certificate issued.
Whoever has it owns the cluster; whoever loses it can't add or replace a node. New secrets live in
memory until `commit`, which replaces the file at once: an interruption leaves the old one, whole.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from cloudinit import pki, statefile
from cloudinit.authoritylife import ending, refuse_untimely
from cloudinit.bootstraptoken import BootstrapToken, make_token
from cloudinit.model import Pki
from cloudinit.nodepool import NodePool
from cloudinit.pki import Issuer, KeyPair, LeafSpec
from cloudinit.statefile import Document, Leaf, StateError
from cloudinit.statelegacy import read_legacy, remove_legacy
from cloudinit.statemodel import Encryption
from cloudinit.stateseal import Seal
from kubekiln.files import is_there, make_dir, read_private, remove_temporaries, write_atomic
from kubekiln.secret import Secret

__all__ = ["AUTHORITIES", "State", "StateError"]

AUTHORITIES = ("kubernetes", "etcd", "front-proxy")
# That of `kubekiln serve`, for clusters that want it: no node trusts it but for its user-data.
DELIVERY = "delivery"
_DIGITS = 16
_T = TypeVar("_T")

NewLeaf = tuple[str, str, bytes, bytes]
"""Name, digest, key and certificate: a new leaf on its way between two of our processes."""


@dataclass
class State:
    """A cluster's secrets: those on disk, and those made since that aren't yet."""

    directory: Path
    cluster: str
    config: Pki
    now: datetime
    is_new: bool
    _document: Document = field(repr=False)
    _seal: Seal = field(repr=False)
    _is_changed: bool = False
    _is_complete: bool = False
    _issuers: dict[str, Issuer] = field(default_factory=dict, repr=False)
    _new_leaves: list[NewLeaf] = field(default_factory=list, repr=False)
    _first_end: tuple[datetime, str] | None = None

    @classmethod
    def open(
        cls,
        directory: Path,
        *,
        cluster: str,
        config: Pki,
        now: datetime,
        encryption: Encryption | None = None,
    ) -> State:
        """Open a state, or begin one where there is none; writes nothing.

        Raises StateError for a state that is damaged, foreign or can't be decrypted.
        """
        seal = Seal(encryption or Encryption(), cluster=cluster)
        path = directory / statefile.NAME
        if is_there(path):
            content = seal.open(read_private(path), path=path)
            document = statefile.decode(content, path=path, cluster=cluster)
            changed = document.sealed_for != seal.sealed_for
            return cls(directory, cluster, config, now, False, document, seal, changed)
        legacy = read_legacy(directory, cluster=cluster)
        if legacy is not None:
            is_new = not legacy.is_complete
            return cls(directory, cluster, config, now, is_new, legacy.document, seal, True)
        return cls(directory, cluster, config, now, True, Document(cluster), seal, True)

    def complete(self, pools: Iterable[NodePool] = ()) -> None:
        """Make every secret that nodes share: from then on only leaves are made.

        Processes that render nodes side by side would else make each one of their own.
        """
        self.check()
        if self._is_changed:
            self._seal.prepare()
        for name in AUTHORITIES:
            self._issuer(name)
        self.service_account_key()
        self.encryption_key()
        wanted = {pool.name: self.token(pool.name, hours=pool.token_ttl_hours) for pool in pools}
        if self._document.tokens != wanted:
            self._document.tokens, self._is_changed = wanted, True
        self._is_complete = True

    def check(self) -> None:
        """Raise what rendering would because of what is in the state; writes nothing."""
        self._seal.refuse_decrypting(self._document.sealed_for, where=self.directory)
        for name in AUTHORITIES:
            if name in self._document.authorities:
                self._issuer(name)

    def authority(self, name: str) -> KeyPair:
        """Give a certificate authority, one of AUTHORITIES, or DELIVERY."""
        return self._shared(
            self._document.authorities,
            name,
            is_late=name == DELIVERY,
            make=lambda: pki.make_authority(
                f"{self.cluster} {name} CA",
                algorithm=self.config.algorithm,
                days=self.config.ca_days,
                now=self.now,
            ),
        )

    def leaf(self, spec: LeafSpec) -> KeyPair:
        """Give the certificate for `spec`: the one issued before, or a new one.

        A new one is issued if the spec or the authority changed, in the last third of its life, and
        if it hasn't begun: then the host's clock was ahead when it was issued.
        """
        kind, days = self.config.algorithm, self.config.leaf_days
        issuer = self._issuer(spec.ca)
        digest = spec.digest(algorithm=kind, days=days, issuer=issuer)[:_DIGITS]
        kept = self._document.leaves.get(spec.name)
        if kept is None or kept.digest != digest or not self._is_timely(kept.pair.certificate):
            pair = pki.issue_leaf(spec, issuer, algorithm=kind, days=days, now=self.now)
            self._keep(spec.name, Leaf(digest, pair))
        else:
            pair = kept.pair
        self.note_end((pki.validity(pair.certificate)[1], spec.name))
        return pair

    def service_account_key(self) -> Secret:
        """Give the key that signs and verifies service-account tokens, one for the cluster."""
        return self._shared(
            self._document.keys,
            "service-account",
            make=lambda: pki.generate_key(self.config.algorithm),
        )

    def encryption_key(self) -> Secret:
        """Give the key under which secrets rest in etcd: 32 bytes, base64."""
        stored = self._shared(
            self._document.keys,
            "encryption",
            make=lambda: Secret(base64.b64encode(secrets.token_bytes(32)) + b"\n"),
        )
        return Secret(stored.reveal().strip())

    def delivery_key(self) -> Secret:
        """Give the key that nodes' keys to their user-data, and their URLs, are derived from."""
        return self._shared(
            self._document.keys,
            DELIVERY,
            is_late=True,
            make=lambda: Secret(base64.b64encode(secrets.token_bytes(32))),
        )

    def token(self, pool: str, *, hours: int) -> BootstrapToken:
        """Give a pool's bootstrap token: the one made before, or a new one.

        A new one is made in the last third of its life, if another life is wanted, and if it was
        made while the host's clock was ahead.
        """
        kept = self._document.tokens.get(pool)
        if kept is not None and kept.fits(hours=hours, now=self.now):
            return kept
        if self._is_complete:
            raise AssertionError(f"masters know {pool}, too: State.complete must make its token")
        token = self._document.tokens[pool] = make_token(hours=hours, now=self.now)
        self._is_changed = True
        return token

    def drop_token(self, pool: str) -> None:
        """Forget a pool's token, such as one that leaked: `complete` makes another."""
        del self._document.tokens[pool]
        self._is_changed = True

    @property
    def tokens(self) -> Mapping[str, BootstrapToken]:
        """The pools' tokens as they were rendered last."""
        return self._document.tokens

    @property
    def first_end(self) -> tuple[datetime, str]:
        """The certificate that ends first among those used: when, and its name."""
        if self._first_end is None:
            raise AssertionError("no certificate was used")
        return self._first_end

    def note_end(self, end: tuple[datetime, str]) -> None:
        """Take note of a certificate that is used, here or by another process."""
        if self._first_end is None or end < self._first_end:
            self._first_end = end

    def days_left(self) -> tuple[str, int]:
        """Name the certificate that ends first among those used, and its days left."""
        end, name = self.first_end
        return name, (end - self.now).days

    def notes(self) -> Iterator[str]:
        """Say what is to be known of the state by whoever renders from it."""
        if not self.is_new:
            yield from self._seal.change(self._document.sealed_for)
        for name in self._issuers:
            certificate, days = self.authority(name).certificate, self.config.leaf_days
            title = self._title(name)
            yield from ending(certificate, title=title, leaf_days=days, now=self.now)

    def take_new_leaves(self) -> list[NewLeaf]:
        """Give the leaves made since the last call."""
        taken, self._new_leaves = self._new_leaves, []
        return taken

    def adopt(self, leaves: Iterable[NewLeaf]) -> None:
        """Keep leaves that another process made from this state."""
        for name, digest, key, certificate in leaves:
            self._keep(name, Leaf(digest, KeyPair(Secret(key), certificate)))

    def commit(self) -> None:
        """Replace the file by what the state is now, at once or not at all; only if it changed."""
        make_dir(self.directory, mode=0o700)
        path = self.directory / statefile.NAME
        remove_temporaries(path)
        if self._is_changed:
            self._document.sealed_for = self._seal.sealed_for
            content = self._seal.close(statefile.encode(self._document))
            write_atomic(path, content, mode=0o600)
        remove_legacy(self.directory)
        self._is_changed = self.is_new = False

    def _shared(
        self, kind: dict[str, _T], name: str, *, make: Callable[[], _T], is_late: bool = False
    ) -> _T:
        """Give a secret, or make it: in a new state, or one that no running node depends on."""
        if name in kind:
            return kind[name]
        if self._is_complete:
            raise AssertionError(f"{name} is shared by nodes: State.complete must make it")
        if not self.is_new and not is_late:
            raise StateError(
                f"the state of cluster {self.cluster} lacks {name}",
                where=str(self.directory),
                hint="restore it from a backup: a new one would not fit the nodes that run",
            )
        kind[name] = make()
        self._is_changed = True
        return kind[name]

    def _keep(self, name: str, leaf: Leaf) -> None:
        self._document.leaves[name] = leaf
        pair = leaf.pair
        self._new_leaves.append((name, leaf.digest, pair.key.reveal(), pair.certificate))
        self._is_changed = True

    def _issuer(self, name: str) -> Issuer:
        if name not in self._issuers:
            pair = self.authority(name)
            title, where = self._title(name), self.directory
            refuse_untimely(pair.certificate, title=title, where=where, now=self.now)
            self._issuers[name] = Issuer.load(pair)
        return self._issuers[name]

    def _title(self, authority: str) -> str:
        return f"authority {authority} of cluster {self.cluster}"

    def _is_timely(self, certificate: bytes) -> bool:
        start, end = pki.validity(certificate)
        return start <= self.now <= end - (end - start) / 3
