# SPDX-License-Identifier: Apache-2.0
"""`kubekiln export terraform|ansible|cluster-api`: a cluster's files, for another tool to boot."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from kubekiln.channel import DatasourceName
    from kubekiln.operations.export import Shipment
    from kubekiln.operations.exportfiles import Output

app = typer.Typer(no_args_is_help=True)

OfCluster = Annotated[
    str, typer.Argument(help="A name under configs/clusters, or a path.", metavar="[CLUSTER]")
]
Into = Annotated[Path, typer.Option("--output", "-o", help="A directory; made if it isn't there.")]
Machines = Annotated[
    Literal["aws", "libvirt", "openstack"], typer.Option(help="What the example is to boot on.")
]
Modules = Annotated[
    Literal["aws", "libvirt", "libvirt-0.8", "openstack"],
    typer.Option(help="Whose provider the example is for; of libvirt's, 0.9 or 0.8."),
]
Infrastructure = Annotated[
    Literal["metal3", "openstack", "vsphere"],
    typer.Option(help="The infrastructure provider."),
]


@app.command()
def terraform(output: Into, cluster: OfCluster = "solo", provider: Modules = "libvirt") -> None:
    """Write tfvars and the files they name and, once, an example module (OpenTofu as well)."""
    from kubekiln.operations.exportterraform import PROVIDERS, write_terraform
    from kubekiln.progress import say

    into, shipment = _begin(cluster, output, PROVIDERS[provider].datasource, provider)
    write_terraform(into, shipment, provider)
    say(f"warning: the files hold keys; Terraform's state will hold {PROVIDERS[provider].state}")
    typer.echo(into.directory)


@app.command()
def ansible(output: Into, cluster: OfCluster = "solo", provider: Machines = "libvirt") -> None:
    """Write an inventory and the files it names and, once, an example playbook."""
    from kubekiln.operations.exportansible import PROVIDERS, write_ansible
    from kubekiln.progress import say

    into, shipment = _begin(cluster, output, PROVIDERS[provider].datasource, provider)
    write_ansible(into, shipment, provider)
    say("warning: the files hold keys")
    typer.echo(into.directory)


@app.command("cluster-api")
def cluster_api(
    output: Into, cluster: OfCluster = "solo", provider: Infrastructure = "openstack"
) -> None:
    """Write Machines with their bootstrap data and, once, an example kustomization."""
    from kubekiln.operations.exportclusterapi import PROVIDERS, site_of, write_cluster_api
    from kubekiln.paths import Project
    from kubekiln.progress import say

    into, shipment = _begin(cluster, output, PROVIDERS[provider].datasource, provider)
    write_cluster_api(into, shipment, site_of(Project.find(), cluster), provider)
    say("warning: the files, and the Secrets made of them, hold the cluster's keys")
    typer.echo(into.directory)


def _begin(
    cluster: str, output: Path, datasource: DatasourceName, provider: str
) -> tuple[Output, Shipment]:
    from kubekiln.operations.export import shipment_of
    from kubekiln.operations.exportfiles import open_output
    from kubekiln.paths import Project

    into, who = open_output(output), f"provider {provider}"
    return into, shipment_of(Project.find(), cluster, "qcow2", datasource=datasource, who=who)
