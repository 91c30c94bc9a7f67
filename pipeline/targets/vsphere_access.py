# SPDX-License-Identifier: Apache-2.0
"""Where is a vCenter, who are we there, and whom do we trust to be it?"""

from __future__ import annotations

import os
import ssl
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kubekiln.errors import ConfigError
from kubekiln.secret import Secret

_TRUE = {"1", "t", "true", "yes", "on"}


@dataclass(frozen=True)
class Access:
    """Where a vCenter is, and who we are there."""

    host: str
    port: int
    user: str
    password: Secret
    verify: bool = True
    ca_files: tuple[Path, ...] = ()

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Access:
        """Look where Terraform's provider looks, then where govc does; never a mix of both.

        Raises ConfigError that names what is missing.
        """
        ca_files = tuple(
            map(Path, filter(None, environment.get("GOVC_TLS_CA_CERTS", "").split(":")))
        )
        if environment.get("VSPHERE_SERVER"):
            server = environment["VSPHERE_SERVER"]
            names = ("VSPHERE_USER", "VSPHERE_PASSWORD", "VSPHERE_ALLOW_UNVERIFIED_SSL")
        elif environment.get("GOVC_URL"):
            server = environment["GOVC_URL"]
            names = ("GOVC_USERNAME", "GOVC_PASSWORD", "GOVC_INSECURE")
        else:
            raise ConfigError(
                "no vCenter is named",
                where="environment: VSPHERE_SERVER, or GOVC_URL",
                hint="set VSPHERE_SERVER, VSPHERE_USER and VSPHERE_PASSWORD, or what govc takes",
            )
        url = _url(server)
        user, password = (
            _value(environment, name) or urllib.parse.unquote(in_url or "")
            for name, in_url in zip(names, (url.username, url.password), strict=False)
        )
        missing = [n for n, value in zip(names, (user, password), strict=False) if not value]
        if missing:
            raise ConfigError(
                f"no {' and no '.join(missing)} for {url.hostname}",
                where="environment",
                hint=f"set {' and '.join(missing)}",
            )
        verify = environment.get(names[2], "").lower() not in _TRUE
        return cls(url.hostname or "", url.port or 443, user, Secret(password), verify, ca_files)

    def tls(self) -> ssl.SSLContext:
        """Trust what this host trusts, and what GOVC_TLS_CA_CERTS names."""
        context = ssl.create_default_context()
        for path in self.ca_files:
            try:
                context.load_verify_locations(path)
            except OSError as error:
                raise ConfigError(
                    f"{path} can't be read as certificates: {error.strerror or error}",
                    where="environment: GOVC_TLS_CA_CERTS",
                ) from error
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


def environment() -> Mapping[str, str]:
    """Give the variables that Terraform and govc read as well; no file of ours may hold them."""
    return os.environ


def _url(server: str) -> urllib.parse.SplitResult:
    """Read `vc.example`, `vc.example:8443` or a URL as govc takes it."""
    try:
        url = urllib.parse.urlsplit(server if "://" in server else f"https://{server}")
        if url.scheme == "https" and url.hostname and (url.port is None or url.port > 0):
            return url
    except ValueError:
        pass
    # Not shown: govc takes the password in it.
    raise ConfigError(
        "the vCenter's address is no host name and no https URL",
        where="environment: VSPHERE_SERVER, or GOVC_URL",
        hint="write it as vcenter.example, or https://vcenter.example/sdk",
    )


def _value(environment: Mapping[str, str], name: str) -> str:
    """Give a variable's value; what is a file's name for govc, is that file's content."""
    value = environment.get(name, "")
    try:
        # Longer than any file's name is allowed to be, it can't be one.
        if name.startswith("GOVC_") and 0 < len(value) < 256 and Path(value).is_file():
            return Path(value).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"the file that {name} names can't be read: {getattr(error, 'strerror', error)}",
            where=f"environment: {name}",
        ) from error
    return value
