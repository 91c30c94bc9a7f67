# SPDX-License-Identifier: Apache-2.0
"""With which identity, subscription and addresses is Azure spoken to?

Credentials come from where Azure's own tools look: azure-identity's DefaultAzureCredential (its
environment variables, workload and managed identities, `az login`, …). None is ever read by us.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kubekiln.errors import ConfigError
from pipeline.targets.azure_settings import Settings
from pipeline.targets.environment import tools_environment

if TYPE_CHECKING:
    from azure.core.credentials import TokenCredential
    from azure.mgmt.compute import ComputeManagementClient
    from azure.mgmt.network import NetworkManagementClient
    from azure.storage.blob import ContainerClient


@dataclass(frozen=True)
class Pace:
    """How the libraries repeat single requests, and ask whether something long is done."""

    retries: int = 3
    """Of one request; whole attempts are repeated by whoever called us."""
    retry_s: int = 1
    poll_s: float = 5.0
    """Where Azure doesn't say how long to wait; a machine takes about a minute."""


@dataclass(frozen=True)
class _Cloud:
    name: str
    """Of azure.core.AzureClouds."""
    authority: str
    blob_suffix: str


# https://learn.microsoft.com/azure/storage/common/storage-powershell-independent-clouds
_CLOUDS: Mapping[str, _Cloud] = {
    "public": _Cloud("AZURE_PUBLIC_CLOUD", "login.microsoftonline.com", "core.windows.net"),
    "us-government":
        _Cloud("AZURE_US_GOVERNMENT", "login.microsoftonline.us", "core.usgovcloudapi.net"),
    "china": _Cloud("AZURE_CHINA_CLOUD", "login.chinacloudapi.cn", "core.chinacloudapi.cn"),
}  # fmt: skip


@dataclass(frozen=True)
class Account:
    """Clients of one subscription."""

    subscription: str
    credential: TokenCredential
    compute: ComputeManagementClient
    network: NetworkManagementClient
    container: ContainerClient
    scopes: tuple[str, ...]
    """Of tokens for the Resource Manager of this cloud."""

    def token(self) -> None:
        """Ask for a token: fails as nothing else does where there are no credentials."""
        self.credential.get_token(*self.scopes)


def open_account(settings: Settings, pace: Pace) -> Account:
    """Make the clients; nothing is asked yet. Raises ConfigError if no subscription is chosen."""
    from azure.core import AzureClouds
    from azure.identity import DefaultAzureCredential
    from azure.mgmt.compute import ComputeManagementClient
    from azure.mgmt.core.tools import get_arm_endpoints
    from azure.mgmt.network import NetworkManagementClient
    from azure.storage.blob import ContainerClient, LinearRetry

    # Without any handler the libraries' warnings would be printed between our own lines.
    logging.getLogger("azure").addHandler(logging.NullHandler())
    cloud = _CLOUDS[settings.cloud]
    subscription = settings.subscription or default_subscription(tools_environment(), Path.home())
    credential = DefaultAzureCredential(authority=cloud.authority)
    arm: dict[str, Any] = {
        "base_url": settings.management_url,
        "cloud_setting": AzureClouds[cloud.name],
        "retry_total": pace.retries,
        "retry_backoff_factor": pace.retry_s,
        "polling_interval": pace.poll_s,
    }
    host = f"https://{settings.storage_account}.blob.{cloud.blob_suffix}"
    return Account(
        subscription,
        credential,
        ComputeManagementClient(credential, subscription, **arm),
        NetworkManagementClient(credential, subscription, **arm),
        ContainerClient(
            settings.blob_url or host,
            settings.container,
            credential,
            retry_policy=LinearRetry(
                backoff=pace.retry_s, retry_total=pace.retries, random_jitter_range=0
            ),
        ),
        tuple(get_arm_endpoints(AzureClouds[cloud.name])["credential_scopes"]),
    )


def default_subscription(environ: Mapping[str, str], home: Path) -> str:
    """Find the subscription as Azure's tools do: the environment, then the profile of `az`."""
    if environ.get("AZURE_SUBSCRIPTION_ID"):
        return environ["AZURE_SUBSCRIPTION_ID"]
    directory = environ.get("AZURE_CONFIG_DIR")
    profile = (Path(directory) if directory else home / ".azure") / "azureProfile.json"
    try:
        # `az` writes it with a byte order mark.
        known = json.loads(profile.read_text("utf-8-sig"))["subscriptions"]
        return str(next(one["id"] for one in known if one["isDefault"]))
    except (OSError, ValueError, KeyError, TypeError, StopIteration):
        raise ConfigError(
            "no subscription is chosen",
            where=str(profile),
            hint="`az account set --subscription ID`, AZURE_SUBSCRIPTION_ID, or `subscription:` "
            "in the target's file",
        ) from None


def resource_id(subscription: str, group: str, kind: str, name: str) -> str:
    """Write the ID of a resource; `name` may be one already.

    `kind` is such as `Microsoft.Network/virtualNetworks/subnets`, for which `name` has one part
    for each of its kinds: `network/subnet`.
    """
    if name.startswith("/"):
        return name
    provider, *kinds = kind.split("/")
    names = name.split("/")
    if len(names) != len(kinds):
        raise ConfigError(f"{name!r} does not name a {'/'.join(kinds)}", hint="or write its ID")
    below = "".join(f"/{k}/{n}" for k, n in zip(kinds, names, strict=True))
    return f"/subscriptions/{subscription}/resourceGroups/{group}/providers/{provider}{below}"
