# SPDX-License-Identifier: Apache-2.0
"""`kubekiln lock …`: the pinned components."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True)

Architectures = Annotated[
    list[str] | None,
    typer.Option("--architecture", "-a", help="amd64 or arm64; may be given several times."),
]


@app.command()
def show(
    component: Annotated[str | None, typer.Argument(help="Only this one, in detail.")] = None,
) -> None:
    """Show what is locked: versions, who can give them, and why the pins are believed."""
    from kubekiln.paths import Project
    from pipeline.lock import load_lock, lock_path
    from pipeline.lockview import detail, overview

    lock = load_lock(lock_path(Project.find().configs_dir))
    for line in detail(lock, component) if component else overview(lock):
        typer.echo(line)


@app.command()
def verify(
    store: Annotated[
        bool, typer.Option("--store/--no-store", help="Also hash everything in the store.")
    ] = True,
) -> None:
    """Check the lock, its Go modules and every file in the store; asks no network."""
    from kubekiln.errors import KubekilnError
    from kubekiln.paths import Project
    from kubekiln.progress import step
    from pipeline.components import load_components
    from pipeline.lock import load_lock, lock_path
    from pipeline.lockview import verify_lock, verify_store
    from pipeline.store import Store

    configs = Project.find().configs_dir
    lock = load_lock(lock_path(configs))
    problems = verify_lock(lock, load_components(configs / "components.yaml"))
    if store:
        with step("Hashing the store"):
            problems += verify_store(Store.default())
    if problems:
        raise KubekilnError.of(problems)
    typer.echo("lock, Go modules and store are sound" if store else "lock and Go modules are sound")


@app.command()
def update(
    refresh: Annotated[
        bool, typer.Option("--refresh", help="Resolve what is unchanged anew, too.")
    ] = False,
    trust_first_download: Annotated[
        bool,
        typer.Option(
            "--trust-first-download", help="Pin what comes where a project has no checksums."
        ),
    ] = False,
) -> None:
    """Write the lock anew from components.yaml; pins that hold are kept."""
    from kubekiln.paths import Project
    from pipeline.components import load_components
    from pipeline.lock import load_lock, lock_path
    from pipeline.relock.update import Options, update_lock
    from pipeline.relock.write import write_lock
    from pipeline.store import Store

    configs = Project.find().configs_dir
    path = lock_path(configs)
    updated = update_lock(
        load_components(configs / "components.yaml"),
        load_lock(path) if path.is_file() else None,
        store=Store.default(),
        options=Options(refresh=refresh, trust_first=trust_first_download),
    )
    changed = write_lock(updated.lock, path)
    for problem in updated.missing:
        typer.echo("\n".join(problem.lines()).replace("error:", "not pinned:", 1), err=True)
    typer.echo(f"{path}: {'written' if changed else 'nothing to change'}")


@app.command()
def mirror(
    directory: Annotated[Path, typer.Argument(help="Where the mirror is, or will be.")],
    component: Annotated[
        list[str] | None, typer.Option("--component", "-c", help="Only these.")
    ] = None,
    architecture: Architectures = None,
    all_versions: Annotated[
        bool, typer.Option("--all-versions", help="Not only the first version of each.")
    ] = False,
) -> None:
    """Fill a directory from which a host without a network can bake."""
    from kubekiln.paths import Project
    from pipeline.lock import architectures, load_lock, lock_path
    from pipeline.mirroring import fill_mirror
    from pipeline.store import Store

    lock = load_lock(lock_path(Project.find().configs_dir))
    done = fill_mirror(
        lock,
        directory,
        architectures=architectures(architecture or ["amd64"]),
        components=component or (),
        all_versions=all_versions,
        store=Store.default(),
    )
    new = sum(one.new for one in done)
    typer.echo(f"{directory}: {len(done)} files, {new} of them new")
