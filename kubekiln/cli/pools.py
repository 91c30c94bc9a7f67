# SPDX-License-Identifier: Apache-2.0
"""`kubekiln cluster seed|tokens`: machines that a cluster's config doesn't list one by one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kubekiln.cli.table import print_table

if TYPE_CHECKING:
    from kubekiln.operations.tokens import PoolToken

ClusterName = Annotated[str, typer.Argument(help="A name under configs/clusters, or a path.")]


def seed(
    cluster: ClusterName,
    name: Annotated[str, typer.Argument(help="What the machine is to be called.")],
    output: Annotated[
        Path | None, typer.Option(help="A directory; build/seeds/CLUSTER/NAME if not given.")
    ] = None,
) -> None:
    """Write a NoCloud seed for one machine of a pool, where no platform gives it its name."""
    from cloudinit.rules import load_cluster
    from kubekiln.operations.seed import write_seed
    from kubekiln.paths import Project

    project = Project.find()
    directory = write_seed(project, load_cluster(cluster, project), name, into=output)
    typer.echo(f"{directory}/{{user-data,meta-data,seed.iso}}")


def tokens(
    cluster: ClusterName,
    apply: Annotated[
        bool, typer.Option("--apply", help="Give them to the cluster, with the admin's kubeconfig.")
    ] = False,
    manifest: Annotated[
        bool, typer.Option("--manifest", help="Print them as objects for a kubectl of yours.")
    ] = False,
    renew: Annotated[
        list[str] | None,
        typer.Option(metavar="POOL", help="Render anew with another token for this pool."),
    ] = None,
) -> None:
    """List the tokens by which machines join the pools, and until when; none of their secrets."""
    from cloudinit.rules import load_cluster
    from kubekiln.operations import tokens as operation
    from kubekiln.paths import Project

    project = Project.find()
    checked = load_cluster(cluster, project)
    for old in operation.renew_tokens(project, checked, renew) if renew else ():
        _print_old(old, checked.name)
    found = operation.rendered_tokens(project, checked)
    if manifest:
        typer.echo(operation.manifest(found).reveal_text())
        return
    _print_tokens(found)
    for line in operation.apply_tokens(project, checked, found) if apply else ():
        typer.echo(line)


def _print_old(old: PoolToken, cluster: str) -> None:
    """Say what is left to do until the cluster doesn't take a token any more."""
    from kubekiln.progress import say

    secret, until = f"bootstrap-token-{old.token.token_id}", f"{old.token.expires:%Y-%m-%d}"
    say(f"token {old.token.token_id} of pool {old.pool.name} is no longer rendered; to revoke it:")
    say(f"  kubekiln kubectl --on {cluster} -n kube-system delete secret {secret}")
    say(f"  kubekiln cluster tokens {cluster} --apply")
    say(f"  and replace the masters: those of before apply it at each boot, until {until}")


def _print_tokens(found: tuple[PoolToken, ...]) -> None:
    from datetime import UTC, datetime

    from rich.table import Table

    now = datetime.now(UTC)
    table = Table("POOL", "MACHINES", "TOKEN", "EXPIRES", "", box=None, pad_edge=False)
    for item in found:
        days = item.days_left(now)
        left = f"in {days:.1f} days" if days > 0 else "expired: render the cluster again"
        expires = item.token.expires.strftime("%Y-%m-%d %H:%M UTC")
        names = f"{item.pool.name_prefix}…, at most {item.pool.max_nodes}"
        table.add_row(item.pool.name, names, item.token.token_id, expires, left)
    print_table(table)
