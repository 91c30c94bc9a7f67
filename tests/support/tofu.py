# SPDX-License-Identifier: Apache-2.0
"""OpenTofu with one provider and no network. Both are built from their Go modules, which takes
minutes once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kubekiln.files import make_dir
from kubekiln.process import Command, Result, run
from tests.support.gobuild import GoProgram, go_program

TOFU = GoProgram(
    "github.com/opentofu/opentofu", "v1.12.6",
    "h1:0VT4P8pMmGcCUnQ9JDrJ+Qg2d35Vzm4FFd/9+H7oF98=", "./cmd/tofu",
)  # fmt: skip
_INSTALLATION = """\
provider_installation {
  filesystem_mirror {
    path = "%s"
  }
}
"""
# Of a test: building both programs takes a quarter of an hour once.
BUILD_S = 3600


@dataclass(frozen=True)
class Tofu:
    """OpenTofu in one directory."""

    directory: Path
    env: Mapping[str, str]

    def __call__(self, *words: str, check: bool = True) -> Result:
        argv = [go_program(TOFU), *words, "-no-color"]
        return run(Command(argv, cwd=self.directory, env=self.env, timeout_s=300), check=check)

    def begin(self, site: Mapping[str, Any]) -> None:
        """Make what the module in the directory says, with what a user says of their place."""
        (self.directory / "site.auto.tfvars.json").write_text(json.dumps(site))
        self("init", "-input=false")
        self("validate")
        self.apply()

    def apply(self) -> None:
        self("apply", "-input=false", "-auto-approve")

    def destroy(self) -> None:
        self("destroy", "-input=false", "-auto-approve")

    def has_nothing_to_do(self) -> bool:
        """Plan again: 0 nothing, 2 something (`-detailed-exitcode`)."""
        said = self("plan", "-input=false", "-detailed-exitcode", check=False)
        print(said.text)
        return said.returncode == 0


def make_tofu(
    scratch: Path, provider: GoProgram, source: str, *, env: Mapping[str, str] | None = None
) -> Tofu:
    """Let `tofu init` find a provider, `namespace/type`, in a mirror of the file system alone."""
    version = provider.version.removeprefix("v")
    mirror = scratch / "mirror"
    place = make_dir(mirror / "registry.opentofu.org" / source / version / "linux_amd64")
    name = f"terraform-provider-{source.partition('/')[2]}_{provider.version}"
    (place / name).symlink_to(go_program(provider))
    config = scratch / "tofu.rc"
    config.write_text(_INSTALLATION % mirror)
    own = {"TF_CLI_CONFIG_FILE": str(config), "TF_IN_AUTOMATION": "1", "CHECKPOINT_DISABLE": "1"}
    return Tofu(scratch / "out", {**own, **(env or {})})
