# SPDX-License-Identifier: Apache-2.0
"""What can be said of a vCenter in `configs/targets`?"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pipeline.targets.platform import TargetSettings


class Settings(TargetSettings):
    """A vCenter, and where in its inventory images and machines go."""

    type: Literal["vsphere"]
    """A vCenter."""
    datacenter: str = Field(examples=["Frankfurt"])
    """Its name, with the folders it is in: `Europe/Frankfurt`."""
    cluster: str = Field(examples=["Compute"])
    """The cluster of hosts (or the host) that runs the machines."""
    resource_pool: str = Field("", examples=["kubernetes"])
    """The resource pool of that cluster; its own if not given."""
    folder: str = Field(examples=["kubekiln"])
    """The folder for machines, which is there already: `apps/kubekiln`. Give kubekiln one of its
    own, and its user no rights elsewhere."""
    template_folder: str = Field("", examples=["templates"])
    """The folder for templates; that of the machines if not given."""
    datastore: str = Field(examples=["vsanDatastore"])
    """Where disks lie."""
    networks: tuple[str, ...] = Field(min_length=1, examples=[["nodes", "storage"]])
    """Port groups, the node network's first; the second is for the second card (`nics`) of every
    node, and so on."""
    hardware_version: int = Field(17, ge=13)
    """Of the machines, as in `vmx-17`, which ESXi 7.0 knows; one that not all hosts know can't run
    everywhere."""
    storage_policy: str | None = Field(None, examples=["aa6d5a82-1c88-45da-85d3-3d74b91a5bad"])
    """The id of a storage policy for the machines' disks (`govc storage.policy.ls`)."""
    anti_affinity: bool = False
    """Whether DRS keeps a cluster's masters on different hosts; needs the right to change the
    cluster, and as many hosts as masters."""
    console: bool = True
    """Whether machines write their serial console to a file on the datastore, where
    `kubekiln console` reads it; needs the right to low-level file operations."""
    task_minutes: int = Field(30, ge=1)
    """How long a task of the vCenter may take; copying a disk is the longest."""

    @property
    def folder_of_templates(self) -> str:
        """Where templates are."""
        return self.template_folder or self.folder
