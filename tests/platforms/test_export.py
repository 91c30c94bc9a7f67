# SPDX-License-Identifier: Apache-2.0
"""Do Terraform's language, Ansible and kustomize make sense of what they are given?

python-hcl2, ansible-core and the pinned kubectl judge. No provider, collection or controller is
here: what their fields are is held against lists made after their references.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from kubekiln.files import sha256_file
from kubekiln.operations import exportansible, exportclusterapi, exportterraform
from kubekiln.operations.export import Shipment
from kubekiln.operations.exportclusterapi import Site, write_cluster_api
from kubekiln.operations.exportfiles import open_output
from kubekiln.process import Command, run
from pipeline.targets.platform import DiskImage
from tests.platforms.conftest import make_spec
from tests.support.controlplane import find_programs
from tests.support.venvs import server_venv

pytestmark = [pytest.mark.platforms, pytest.mark.timeout(300)]

KINDS = Path(__file__).parent / "crds" / "cluster-api.yaml"
_PARSE = "import hcl2, json, sys; print(json.dumps([hcl2.load(open(p)) for p in sys.argv[1:]]))"
# Modules of collections that aren't here, by what Ansible must find to check a playbook's syntax.
_MODULES = {
    "community.libvirt": ["virt"],
    "openstack.cloud": ["image", "port", "server", "volume"],
    "amazon.aws": ["ec2_launch_template", "ec2_instance"],
}


@pytest.fixture
def shipment(tmp_path: Path) -> Shipment:
    path = tmp_path / "kubekiln-debian-13.qcow2"
    path.write_bytes(b"QFI\xfb an image")
    image = DiskImage("debian-13", "ab" * 32, path, "qcow2", sha256_file(path), 8 << 30)
    first, second = (make_spec(tmp_path, name) for name in ("lab-1", "lab-2"))
    return Shipment("lab", image, (first, replace(second, etcd_disk_gib=8)))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.mark.parametrize("provider", sorted(exportterraform.PROVIDERS))
def test_the_module_declares_what_it_uses_and_uses_what_it_declares(
    shipment: Shipment, out: Path, provider: str
) -> None:
    exportterraform.write_terraform(open_output(out), shipment, provider)

    files = sorted(out.glob("*.tf"))
    assert len(files) == 3
    parsed = json.loads(run(Command([server_venv("hcl2") / "python", "-c", _PARSE, *files])).text)
    declared = {name.strip('"') for one in parsed for v in one.get("variable", []) for name in v}
    text = "\n".join(path.read_text() for path in files)
    assert set(re.findall(r"\bvar\.(\w+)", text)) == declared
    given = json.loads((out / "kubekiln.auto.tfvars.json").read_text())
    assert set(given) <= declared, "Terraform warns of values that no variable takes"
    fields = set(re.search(r"object\(\{(.*?)\}\)", text, re.DOTALL)[1].split())  # type: ignore[index]
    assert set(given["nodes"]["lab-1"]) <= fields


@pytest.mark.parametrize("provider", sorted(exportterraform.PROVIDERS))
def test_the_module_names_only_resources_that_it_has(
    shipment: Shipment, out: Path, provider: str
) -> None:
    exportterraform.write_terraform(open_output(out), shipment, provider)

    text = "\n".join(path.read_text() for path in out.glob("*.tf"))
    made = set(re.findall(r'^resource "(\w+)" "(\w+)"', text, re.MULTILINE))
    named = set(re.findall(r"\b((?:aws|libvirt|openstack|terraform)_\w+)\.(\w+)[.\[]", text))
    assert named, "the scan found nothing"
    assert named <= made


@pytest.fixture
def collections(tmp_path: Path) -> Path:
    """Lay empty modules where Ansible looks for those of the collections."""
    base = tmp_path / "collections"
    for name, modules in _MODULES.items():
        directory = base / "ansible_collections" / Path(*name.split(".")) / "plugins" / "modules"
        directory.mkdir(parents=True)
        for module in modules:
            (directory / f"{module}.py").write_text("#!/usr/bin/python\n")
    return base


def ansible(tool: str, *words: str | Path, collections: Path) -> str:
    command = server_venv("ansible") / tool
    home = collections.parent / "home"
    env = {"ANSIBLE_COLLECTIONS_PATH": str(collections), "ANSIBLE_LOCAL_TEMP": str(home),
           "ANSIBLE_HOME": str(home), "ANSIBLE_NOCOLOR": "1"}  # fmt: skip
    return run(Command([command, *words], env=env, timeout_s=120)).text


@pytest.mark.parametrize("provider", sorted(exportansible.PROVIDERS))
def test_ansible_takes_the_inventory_and_the_playbook(
    shipment: Shipment, out: Path, collections: Path, provider: str
) -> None:
    exportansible.write_ansible(open_output(out), shipment, provider)
    inventory = out / "inventory.yaml"

    said = ansible("ansible-inventory", "-i", inventory, "--list", collections=collections)
    checked = ansible(
        "ansible-playbook", "-i", inventory, "--syntax-check", out / "boot.yaml",
        collections=collections,
    )  # fmt: skip

    hosts = json.loads(said)["_meta"]["hostvars"]
    assert set(hosts) == {"lab-1", "lab-2"}
    assert hosts["lab-1"]["kubekiln_cluster"] == "lab"
    assert (out / hosts["lab-2"]["kubekiln_user_data_gzip_b64_path"]).is_file()
    assert "boot.yaml" in checked


@pytest.mark.parametrize("provider", sorted(exportansible.PROVIDERS))
def test_every_variable_of_the_playbook_is_given(
    shipment: Shipment, out: Path, provider: str
) -> None:
    exportansible.write_ansible(open_output(out), shipment, provider)

    used = {name for path in [*out.glob("*.yaml"), *out.glob("*.j2")]
            for name in re.findall(r"\bkubekiln_\w+", path.read_text())
            if path.name not in ("inventory.yaml",)}  # fmt: skip
    given = {key for path in (out / "group_vars").rglob("*.yaml")
             for key in yaml.safe_load(path.read_text())}  # fmt: skip
    hosts = yaml.safe_load((out / "inventory.yaml").read_text())["all"]["children"]["kubekiln"]
    node = hosts["children"]["kubekiln_worker"]["hosts"]["lab-1"]
    # The image's identity on AWS comes with the command; a property and a group are no variables.
    others = {"kubekiln_ami_id", "kubekiln_sha256"}
    assert used - given - set(node) <= others


@pytest.mark.parametrize("provider", sorted(exportclusterapi.PROVIDERS))
def test_kustomize_completes_the_objects_and_every_field_is_known(
    shipment: Shipment, out: Path, tmp_path: Path, provider: str
) -> None:
    programs = find_programs("kubectl")
    if not programs:
        pytest.skip("no kubectl in the store: bake an image first")
    kubeconfig, pool = tmp_path / "admin.kubeconfig", tmp_path / "pool"
    kubeconfig.write_text("current-context: lab\n")
    pool.write_text("#cloud-config\n")
    site = Site(
        "1.37.1", "10.80.0.5", 6443, frozenset({"lab-1"}), kubeconfig, (("more", "more-", pool),)
    )
    write_cluster_api(open_output(out), shipment, site, provider)
    link = tmp_path / "kubectl"
    link.symlink_to(programs["kubectl"])

    objects = list(yaml.safe_load_all(run(Command([link, "kustomize", out])).text))

    kinds = yaml.safe_load(KINDS.read_text())
    problems = [
        f"{one['kind']} {one['metadata']['name']}: {problem}"
        for one in objects if one["kind"] != "Secret"
        for problem in unknown(one["spec"], kinds[f"{one['apiVersion']} {one['kind']}"], "spec")
    ]  # fmt: skip
    assert problems == []
    assert len(objects) == 2 + 2 * 3 + 4, "a cluster, three times a machine, four secrets"


def unknown(value: Any, known: Any, path: str) -> Iterator[str]:
    """Name what isn't among the known fields, or of another type, or missing."""
    if isinstance(known, dict):
        fields = {key.rstrip("!"): sub for key, sub in known.items()}
        for key in value:
            if key in fields:
                yield from unknown(value[key], fields[key], f"{path}.{key}")
            else:
                yield f"{path}.{key} is unknown"
        yield from (f"{path}.{key[:-1]} is missing" for key in known
                    if key.endswith("!") and key[:-1] not in value)  # fmt: skip
    elif isinstance(known, list):
        for index, item in enumerate(value):
            yield from unknown(item, known[0], f"{path}[{index}]")
    elif known != "any" and type(value).__name__ != known:
        yield f"{path} is {value!r}, not of type {known}"
