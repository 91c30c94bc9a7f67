# SPDX-License-Identifier: Apache-2.0
"""`kubekiln image …`: the golden image, and containers' images on its machines."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kubekiln.cli.table import print_table

app = typer.Typer(no_args_is_help=True)

ImageName = Annotated[
    str, typer.Argument(metavar="[IMAGE]", help="A name under configs/images, or a path.")
]


@app.command()
def bake(
    image: ImageName = "debian-13",
    refresh: Annotated[
        bool,
        typer.Option("--refresh", help="Install the distribution anew, with today's updates."),
    ] = False,
) -> None:
    """Bake an image; whatever is cached and unchanged is reused."""
    from kubekiln.paths import Project
    from kubekiln.progress import clock
    from pipeline.bake import bake as bake_image
    from pipeline.lock import load_lock, lock_path
    from pipeline.model import load_image

    project = Project.find()
    lock = load_lock(lock_path(project.configs_dir))
    baked = bake_image(load_image(image, project), project=project, lock=lock, refresh=refresh)
    size_mb = baked.qcow2.stat().st_size / 1e6
    typer.echo(f"{baked.qcow2}")
    typer.echo(f"  digest {baked.digest}")
    typer.echo(f"  size   {size_mb:,.0f} MB")
    typer.echo(f"  reused {', '.join(baked.reused) or 'nothing'}")
    typer.echo(f"  took   {clock(baked.seconds)}")


@app.command()
def fetch(image: ImageName = "debian-13") -> None:
    """Get an image's components into the store (downloaded, or compiled), and bake nothing."""
    from kubekiln.paths import Project
    from pipeline.lock import load_lock, lock_path
    from pipeline.model import load_image
    from pipeline.stages.components import gather

    project = Project.find()
    components = gather(
        load_image(image, project), load_lock(lock_path(project.configs_dir))
    ).providers
    width = max(map(len, components))
    for name, provider in components.items():
        typer.echo(f"{name:<{width}}  {provider}")


@app.command("list")
def list_images() -> None:
    """List the images that are baked."""
    from kubekiln.paths import Project
    from pipeline.stages.publish import all_published

    found = all_published(Project.find().images_dir)
    if not found:
        typer.echo("no image yet: `kubekiln image bake`")
        return
    _print_images(found)


@app.command()
def inspect(
    image: Annotated[
        str, typer.Argument(metavar="[IMAGE]", help="An image's name, or a manifest or qcow2.")
    ] = "debian-13",
) -> None:
    """Read a finished disk back and check everything that must be true of it."""
    from rich.table import Table

    from kubekiln.paths import Project
    from kubekiln.progress import step
    from pipeline.stages.inspect import inspect_disk, read_manifest

    path = _manifest_path(image, Project.find().images_dir)
    manifest = read_manifest(path)
    with step(f"Inspecting {manifest['qcow2']['path']}"):
        findings = inspect_disk(path.parent / manifest["qcow2"]["path"], manifest)
    table = Table.grid(padding=(0, 2))
    for finding in findings:
        verdict = "[green]ok[/]" if finding.good else "[red]fail[/]"
        table.add_row(verdict, finding.check, finding.promise)
        for problem in finding.problems:
            table.add_row("", "", f"[red]{problem}[/]")
    print_table(table)
    if not all(finding.good for finding in findings):
        raise typer.Exit(1)


@app.command()
def convert(
    form: Annotated[
        str,
        typer.Option("--format", help="raw, qcow2, vmdk, ova, vhd, gce or tar.", metavar="FORMAT"),
    ],
    image: Annotated[
        str, typer.Argument(metavar="[IMAGE]", help="An image's name, or a manifest or qcow2.")
    ] = "debian-13",
    reread: Annotated[
        bool, typer.Option("--reread", help="Read a file that is there, rather than trust it.")
    ] = False,
) -> None:
    """Write a baked image in another format, beside it; once."""
    from kubekiln.paths import Project
    from pipeline.disk.formats import as_format, format_named
    from pipeline.stages.inspect import read_manifest

    wanted = format_named(form)
    path = _manifest_path(image, Project.find().images_dir)
    read_manifest(path)
    made = as_format(path, wanted, reread=reread)
    typer.echo(f"{made.path}")
    typer.echo(f"  size   {made.size / 1e6:,.0f} MB, of a disk of {made.virtual_size >> 20:,} MiB")
    typer.echo(f"  sha256 {made.sha256}")


@app.command()
def load(
    archive: Annotated[Path, typer.Argument(help="An OCI or docker archive (docker save -o).")],
    on: Annotated[
        str | None,
        typer.Option(help="The cluster; not needed if only one has machines.", metavar="CLUSTER"),
    ] = None,
) -> None:
    """Load container images into each node of a cluster (target nspawn)."""
    from kubekiln.operations.imageload import load_images
    from kubekiln.paths import Project

    loaded = load_images(Project.find(), archive, on)
    for image in loaded.images:
        typer.echo(f"{image} is on {', '.join(loaded.nodes)}")


def _manifest_path(image: str, images_dir: Path) -> Path:
    if "/" not in image and not image.endswith((".json", ".qcow2")):
        return images_dir / f"{image}.json"
    return Path(image).with_suffix(".json")


def _print_images(found: list[tuple[Path, dict[str, object]]]) -> None:
    from datetime import UTC, datetime

    from rich.table import Table

    table = Table("image", "digest", "MB", "age", "components", box=None, pad_edge=False)
    now = datetime.now(UTC)
    for _, manifest in found:
        age = now - datetime.fromisoformat(str(manifest["created"]))
        qcow2, components = manifest["qcow2"], manifest["components"]
        assert isinstance(qcow2, dict)
        assert isinstance(components, dict)
        shown = ", ".join(f"{k} {components[k]}" for k in ("kubernetes", "etcd", "containerd"))
        digest = str(manifest["digest"])[:12]
        size = f"{qcow2['size'] / 1e6:,.0f}"
        hours = int(age.total_seconds() // 3600)
        shown_age = f"{hours} h" if hours < 48 else f"{age.days} d"
        table.add_row(str(manifest["name"]), digest, size, shown_age, shown)
    print_table(table)
