# SPDX-License-Identifier: Apache-2.0
"""How is a vCenter spoken to, and how is what it does waited for?

A session is one act's own: it is logged out however that ends, no two threads share one, and none
gets so old that it needs to be kept alive.
"""

from __future__ import annotations

import contextlib
import http.client
import re
import ssl
import time
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pyVmomi import vim, vmodl
from pyVmomi.SoapAdapter import SoapStubAdapter

from kubekiln.errors import KubekilnError
from pipeline.targets.vsphere_access import Access
from pipeline.targets.vsphere_errors import RAISED, translated

# vSphere 7.0: every newer server speaks it, and it is the oldest that is still in use.
_API = "vim.version.v7_0"
_ANSWER_S = 120.0
# Shorter than _ANSWER_S: a server that has nothing to tell says so by then.
_UPDATE_S = 30


@dataclass(frozen=True)
class Session:
    """A login at a vCenter, for one act of one thread (and the renewals of its lease)."""

    access: Access
    content: vim.ServiceInstanceContent
    stub: SoapStubAdapter
    tls: ssl.SSLContext
    patience_s: float
    """How long a task of the server may take."""

    @property
    def search(self) -> vim.SearchIndex:
        """Finds what is in the inventory."""
        index = self.content.searchIndex
        assert index is not None
        return index

    def wait(self, task: vim.Task) -> Any:
        """Wait for a task; gives its result, or raises its fault as pyvmomi's exception."""
        over = (vim.TaskInfo.State.success, vim.TaskInfo.State.error)
        self.wait_until(task, "info.state", lambda state: state in over)
        info = self.properties(task, ["info.error", "info.result"])
        if "info.error" in info:
            raise info["info.error"]
        return info.get("info.result")

    def wait_until(self, thing: Any, path: str, done: Callable[[object], bool]) -> None:
        """Wait until a property is as wished; the server says when it changes."""
        collector = self.content.propertyCollector
        of = vmodl.query.PropertyCollector
        watched = collector.CreateFilter(
            of.FilterSpec(
                objectSet=[of.ObjectSpec(obj=thing)],
                propSet=[of.PropertySpec(type=type(thing), pathSet=[path])],
            ),
            True,
        )
        until, version = time.monotonic() + self.patience_s, ""
        try:
            while time.monotonic() < until:
                options = of.WaitOptions(maxWaitSeconds=_UPDATE_S)
                update = collector.WaitForUpdatesEx(version, options)
                if update is None:
                    continue
                version = update.version
                values = [
                    change.val
                    for one in update.filterSet
                    for changed in one.objectSet
                    for change in changed.changeSet
                ]
                if any(done(value) for value in values):
                    return
        finally:
            with contextlib.suppress(*RAISED):
                watched.Destroy()
        raise KubekilnError(
            f"{self.access.host}: not finished after {self.patience_s / 60:.0f} min",
            where=path,
            hint="look at vCenter's recent tasks; `task_minutes` of the target allows for more",
        )

    def children(
        self, folder: vim.Folder, kind: type[vim.ManagedEntity], paths: Sequence[str]
    ) -> list[tuple[Any, dict[str, Any]]]:
        """List what is in a folder, of one kind, with some of its properties."""
        of = vmodl.query.PropertyCollector
        inside = of.TraversalSpec(type=vim.Folder, path="childEntity", skip=False)
        wanted = of.FilterSpec(
            objectSet=[of.ObjectSpec(obj=folder, skip=True, selectSet=[inside])],
            propSet=[of.PropertySpec(type=kind, pathSet=list(paths))],
        )
        return self._retrieve(wanted)

    def properties(self, thing: Any, paths: Sequence[str]) -> dict[str, Any]:
        """Read several properties at once; what isn't set isn't in it."""
        of = vmodl.query.PropertyCollector
        wanted = of.FilterSpec(
            objectSet=[of.ObjectSpec(obj=thing)],
            propSet=[of.PropertySpec(type=type(thing), pathSet=list(paths))],
        )
        found = self._retrieve(wanted)
        return found[0][1] if found else {}

    def _retrieve(
        self, wanted: vmodl.query.PropertyCollector.FilterSpec
    ) -> list[tuple[Any, dict[str, Any]]]:
        collector = self.content.propertyCollector
        options = vmodl.query.PropertyCollector.RetrieveOptions()
        found, page = [], collector.RetrievePropertiesEx([wanted], options)
        while page is not None:
            found += [(one.obj, {p.name: p.val for p in one.propSet}) for one in page.objects]
            page = collector.ContinueRetrievePropertiesEx(page.token) if page.token else None
        return found

    def machine(self, id_: str) -> vim.VirtualMachine:
        """Name a machine (or a template) by its id; it isn't asked for yet."""
        return vim.VirtualMachine(id_, self.stub)

    def read_file(self, datacenter: str, path: str) -> bytes | None:
        """Read `[datastore] directory/file` over HTTP; None if it isn't there."""
        datastore, inside = split_path(path)
        query = urllib.parse.urlencode({"dcPath": datacenter.strip("/"), "dsName": datastore})
        at = f"/folder/{urllib.parse.quote(inside)}?{query}"
        connection = http.client.HTTPSConnection(
            self.access.host, self.access.port, context=self.tls, timeout=_ANSWER_S
        )
        with contextlib.closing(connection):
            connection.request("GET", at, headers={"Cookie": self.stub.cookie.partition(";")[0]})
            answer = connection.getresponse()
            content = answer.read()
        if answer.status == http.client.NOT_FOUND:
            return None
        if answer.status in (http.client.UNAUTHORIZED, http.client.FORBIDDEN):
            raise KubekilnError(
                f"{self.access.host}: this user may not read {path}",
                hint="give its role Datastore.Browse on the datastore",
            )
        if answer.status != http.client.OK:
            raise http.client.HTTPException(f"{answer.status} {answer.reason} for {path}")
        return content


def split_path(path: str) -> tuple[str, str]:
    """Take `[datastore] directory/file` apart."""
    parts = re.fullmatch(r"\[([^\]]+)\] ?(.*)", path)
    assert parts is not None, path
    return parts[1], parts[2]


@contextlib.contextmanager
def session(access: Access, *, patience_s: float) -> Iterator[Session]:
    """Log in while the block runs; what pyvmomi raises in it becomes an error of ours."""
    tls = access.tls()
    stub = SoapStubAdapter(
        host=access.host, port=access.port, version=_API, sslContext=tls,
        httpConnectionTimeout=_ANSWER_S,
    )  # fmt: skip
    try:
        with translated(access.host):
            content = vim.ServiceInstance("ServiceInstance", stub).RetrieveContent()
            sessions = content.sessionManager
            assert sessions is not None
            sessions.Login(access.user, access.password.reveal_text(), None)
            try:
                yield Session(access, content, stub, tls, patience_s)
            finally:
                with contextlib.suppress(*RAISED):
                    sessions.Logout()
    finally:
        stub.DropConnections()
