# SPDX-License-Identifier: Apache-2.0
"""What does a vCenter's fault, or a connection that broke, mean to whoever asked for it?

The one place where what pyvmomi raises becomes an error of ours.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPException
from xml.parsers.expat import ExpatError

from pyVmomi import vim, vmodl

from kubekiln.errors import KubekilnError, StorageError
from pipeline.targets.platform import TransientError

# What pyvmomi raises: faults of the server, and what http.client, ssl and expat raise beneath it.
RAISED = (vmodl.MethodFault, OSError, HTTPException, ExpatError)
GONE = (vmodl.fault.ManagedObjectNotFound,)


@dataclass(frozen=True)
class _Meaning:
    """What a fault means."""

    raised: type[KubekilnError]
    what: str
    hint: str | None = None


_AGAIN = "it is tried again; if that doesn't help, look at vCenter's recent tasks and events"
_ROOM = "free some room on the datastore, or name another one in the target's file"
_LOGIN = _Meaning(
    KubekilnError,
    "it refuses this user and password",
    "check VSPHERE_USER and VSPHERE_PASSWORD, or GOVC_USERNAME and GOVC_PASSWORD; a user has its "
    "domain with it, as in kubekiln@vsphere.local",
)
_BUSY = _Meaning(TransientError, "it can't do that now", _AGAIN)
_FULL = _Meaning(StorageError, "the datastore has no room for it", _ROOM)

# The first that fits: more special faults are before those that they are derived from.
_FAULTS: tuple[tuple[type[vmodl.MethodFault], _Meaning], ...] = (
    (vim.fault.InvalidLogin, _LOGIN),
    (vim.fault.NotAuthenticated, _Meaning(TransientError, "the session has ended", _AGAIN)),
    (
        vim.fault.NoPermission,
        _Meaning(
            KubekilnError,
            "this user may not do that",
            "docs/platforms/vsphere.md lists the privileges that a role for kubekiln needs",
        ),
    ),
    (vim.fault.NoDiskSpace, _FULL),
    (vim.fault.InsufficientStorageSpace, _FULL),
    (
        vim.fault.InsufficientResourcesFault,
        _Meaning(
            KubekilnError,
            "no host has room for the machine",
            "give the nodes fewer CPUs or less memory, or the cluster another host",
        ),
    ),
    (vmodl.fault.ManagedObjectNotFound, _Meaning(KubekilnError, "it isn't there any more")),
    # It has just appeared: whoever looks again sees whose it is.
    (vim.fault.DuplicateName, _Meaning(TransientError, "there is one of that name", _AGAIN)),
    (vim.fault.TaskInProgress, _BUSY),
    (vim.fault.ConcurrentAccess, _BUSY),
    (vim.fault.ResourceInUse, _BUSY),
    (vim.fault.Timedout, _BUSY),
    (vim.fault.HostConnectFault, _BUSY),
    (vmodl.fault.HostCommunication, _BUSY),
    (vmodl.fault.RequestCanceled, _BUSY),
    (vmodl.fault.SystemError, _BUSY),
)
_OTHER = _Meaning(KubekilnError, "it refuses that", None)


@contextlib.contextmanager
def translated(server: str) -> Iterator[None]:
    """Turn what pyvmomi raises into a KubekilnError, or a TransientError, that names the server."""
    try:
        yield
    except vmodl.MethodFault as fault:
        raise of_fault(fault, server) from fault
    except ssl.SSLCertVerificationError as error:
        raise KubekilnError(
            f"{server}: its certificate isn't trusted: {error.verify_message}",
            hint="name its authority's certificate in GOVC_TLS_CA_CERTS, or the name that is in "
            "the certificate in VSPHERE_SERVER; VSPHERE_ALLOW_UNVERIFIED_SSL=true goes without",
        ) from error
    except ExpatError as error:
        raise KubekilnError(
            f"{server} doesn't answer as a vCenter does", hint="check VSPHERE_SERVER or GOVC_URL"
        ) from error
    except (OSError, HTTPException) as error:
        what = str(error) or type(error).__name__
        raise TransientError(
            f"{server}: {what}", hint="check the server's name and the network to it"
        ) from error


def of_fault(fault: vmodl.MethodFault, server: str) -> KubekilnError:
    """Say what a fault means; its own words are in it."""
    meaning = next((known for kind, known in _FAULTS if isinstance(fault, kind)), _OTHER)
    return meaning.raised(f"{server}: {meaning.what} ({_words(fault)})", hint=meaning.hint)


def _words(fault: vmodl.MethodFault) -> str:
    """Give a fault's name and all it says; `NoPermission: VirtualMachine.Inventory.Create`."""
    said = [
        getattr(fault, "msg", None),
        *(one.message for one in fault.faultMessage),
        getattr(fault, "privilegeId", None),
        getattr(fault, "reason", None),
        getattr(fault, "invalidProperty", None),
    ]
    name = type(fault).__name__.rpartition(".")[2]
    words = list(dict.fromkeys(word for word in said if isinstance(word, str) and word))
    return ": ".join([name, *words])
