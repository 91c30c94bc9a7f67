# SPDX-License-Identifier: Apache-2.0
"""Are KubeVirt's objects what settings and specs say, and are refusals told as what they are?"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pydantic
import pytest
import urllib3
import yaml

from kubekiln.errors import KubekilnError
from pipeline.targets import kubevirt_objects as objects
from pipeline.targets.console import parse_console
from pipeline.targets.kubeapi import KubeApi
from pipeline.targets.kubeerrors import Exists, Missing, errors_of, refusal
from pipeline.targets.kubevirt import KubeVirtPlatform, Settings
from pipeline.targets.kubevirt_checks import refusals
from pipeline.targets.platform import Instance, InstanceSpec, RemoteImage, TransientError
from tests.support.disks import as_image

IMAGE = RemoteImage("machines/kubekiln-debian-13-abc", "kubekiln-debian-13-abc")


def make_settings(**more: Any) -> Settings:
    return Settings.model_validate({"type": "kubevirt", "networks": ["lab-net"], **more})


@pytest.fixture
def spec(tmp_path: Path) -> InstanceSpec:
    for name in ("user-data", "meta-data", "network-config", "seed.iso"):
        (tmp_path / name).write_text(f"{name} of n1\n")
    return InstanceSpec(
        cluster="lab", node="n1", role="worker", seed_dir=tmp_path, seed_iso=tmp_path / "seed.iso",
        payload="0123456789abcdef", macs=("52:00:00:00:00:01",),
        addresses=("10.80.0.11", "fd00::b"),
        cpus=3, memory_mib=2048, disk_gib=20,
    )  # fmt: skip


def test_a_machine_has_the_node_s_cpus_memory_disk_and_card(spec: InstanceSpec) -> None:
    made = objects.machine(make_settings(), spec, IMAGE)["spec"]

    guest = made["template"]["spec"]
    assert guest["domain"]["cpu"] == {"cores": 3}
    assert guest["domain"]["memory"] == {"guest": "2048Mi"}
    assert guest["domain"]["devices"]["interfaces"] == [
        {"name": "net0", "macAddress": "52:00:00:00:00:01", "bridge": {}}]  # fmt: skip
    (volume,) = made["dataVolumeTemplates"]
    assert volume["spec"]["storage"]["resources"]["requests"]["storage"] == str(20 << 30)
    assert guest["hostname"] == "n1"


def test_user_data_that_no_secret_takes_is_refused(spec: InstanceSpec, tmp_path: Path) -> None:
    (spec.seed_dir / "user-data").write_bytes(b"#" * (1 << 20))

    (found,) = refusals(spec, as_image(tmp_path / "disk"), make_settings())

    assert found.what.startswith("n1: user-data is 1,048,")
    assert found.what.endswith("a Kubernetes Secret takes 1,048,576")
    assert "cluster explain" in str(found.hint)


def test_a_machine_is_off_until_its_secret_is_there(spec: InstanceSpec) -> None:
    made = {**objects.machine(make_settings(), spec, IMAGE)}
    made["metadata"] = {**made["metadata"], "uid": "u-1"}

    assert made["spec"]["runStrategy"] == "Halted"
    assert objects.as_instance(made, "machines").state == "failed", "it isn't complete"
    assert "user-data of n1" not in json.dumps(made)
    secret = objects.seed_secret(spec, made)
    (owner,) = secret["metadata"]["ownerReferences"]
    assert (owner["uid"], owner["blockOwnerDeletion"]) == ("u-1", True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"node": "n" * 62}, "more than 63 characters"),
        (
            {"macs": ("52:00:00:00:00:01", "52:00:00:00:00:02")},
            "n1 has 2 network cards, the target gives it 1",
        ),
    ],
    ids=["name", "cards"],
)
def test_what_kubevirt_would_refuse_late_is_refused_early(
    spec: InstanceSpec, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    image = as_image(tmp_path / "disk")

    (found,) = refusals(replace(spec, **change), image, make_settings())

    assert message in found.what
    assert list(refusals(spec, image, make_settings())) == []


@pytest.mark.parametrize(
    ("printed", "run", "state"),
    [
        ("Running", "Always", "running"),
        ("Provisioning", "Always", "starting"),
        ("ErrorUnschedulable", "Always", "starting"),
        ("DataVolumeError", "Always", "failed"),
        # Restarted or drained: nothing to make anew, with another disk.
        ("Stopping", "Always", "starting"),
        ("Running", "Halted", "stopped"),
    ],
)
def test_what_kubevirt_prints_becomes_a_state(
    spec: InstanceSpec, printed: str, run: str, state: str
) -> None:
    found = json.loads(json.dumps(objects.machine(make_settings(), spec, IMAGE)))
    found["metadata"]["annotations"]["kubekiln-made"] = "true"
    found["spec"]["runStrategy"] = run
    found["status"] = {"printableStatus": printed, "conditions": [
        {"type": "Ready", "status": "False", "message": "no host has room"}]}  # fmt: skip

    instance = objects.as_instance(found, "machines")

    assert instance.state == state
    assert instance.addresses == ("10.80.0.11", "fd00::b")
    assert instance.detail == f"{printed}: no host has room"


def test_a_volume_counts_only_when_it_succeeded_and_bears_both_digests(tmp_path: Path) -> None:
    image = as_image(tmp_path / "image.raw")
    made = json.loads(json.dumps(objects.image_volume(make_settings(), image)))
    made["status"] = {"phase": "Succeeded"}
    assert not objects.is_whole(made, image), "its bytes weren't compared yet"
    made["metadata"]["annotations"] |= objects.whole(image)["metadata"]["annotations"]
    assert objects.is_whole(made, image)

    assert not objects.is_whole(made, replace(image, sha256="0" * 64))
    assert not objects.is_whole({**made, "status": {"phase": "UploadReady"}}, image)
    going = {**made, "metadata": {**made["metadata"], "deletionTimestamp": "now"}}
    assert not objects.is_whole(going, image)


def test_a_migrated_machine_s_console_is_that_of_all_its_pods(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    logs = {
        "launcher-b": "KUBEKILN phase=activated t=9.0 node=lab-1\r\nlogin: ",
        "launcher-a": "on",
    }
    born = {"launcher-a": "2026-08-02T10:00:00Z", "launcher-b": "2026-08-01T10:00:00Z"}

    class Api:
        def list(self, _kind: object, _selector: str) -> list[Any]:
            return [{"metadata": {"name": name, "creationTimestamp": at}}
                    for name, at in born.items()]  # fmt: skip

        def pod_log(self, pod: str, _container: str) -> str | None:
            return logs[pod]

    platform = KubeVirtPlatform(make_settings())
    monkeypatch.setattr(platform, "_api", Api())

    said = platform.read_console(Instance("ns/lab-lab-1", "lab", "lab-1", "p1", "running"))

    assert said == logs["launcher-b"] + "on"
    assert parse_console(said).has("activated"), "what `forget` looks for"


def test_formats_that_cdi_isn_t_given_are_refused_with_a_hint() -> None:
    with pytest.raises(pydantic.ValidationError, match="CDI isn't given vmdk"):
        make_settings(format="vmdk")


def test_credentials_go_only_over_tls() -> None:
    with pytest.raises(pydantic.ValidationError, match="upload_proxy"):
        make_settings(upload_proxy="http://proxy.example")


def status(code: int, reason: str, message: str = "", **more: Any) -> bytes:
    return json.dumps(
        {"kind": "Status", "code": code, "reason": reason, "message": message, **more}
    ).encode()


@pytest.mark.parametrize("code", [409, 429, 500, 502, 503, 504])
def test_what_the_api_may_do_next_time_is_transient(code: int) -> None:
    with pytest.raises(TransientError), errors_of("it"):
        raise refusal(code, b"", hide=False)


@pytest.mark.parametrize("code", [400, 401, 403, 404, 422])
def test_what_the_api_will_refuse_again_isn_t(code: int) -> None:
    with pytest.raises(KubekilnError) as raised, errors_of("it"):
        raise refusal(code, status(code, "X", "no"), hide=False)

    assert not isinstance(raised.value, TransientError)
    assert raised.value.problems[0].what == f"it: HTTP {code}: no"
    assert raised.value.problems[0].hint


def test_a_refused_secret_is_never_quoted() -> None:
    with pytest.raises(KubekilnError) as raised, errors_of("secrets lab-n1"):
        raise refusal(422, status(422, "Invalid", "data: the-key is wrong"), hide=True)

    assert "the-key" not in str(raised.value)
    assert "Invalid" in str(raised.value)


def test_an_object_that_isn_t_there_is_told_from_a_kind_that_isn_t() -> None:
    there = refusal(404, status(404, "NotFound", details={"name": "x"}), hide=False)
    unknown = refusal(404, b"404 page not found", hide=False)

    assert isinstance(there, Missing)
    assert not isinstance(unknown, Missing)
    assert isinstance(refusal(409, status(409, "AlreadyExists"), hide=False), Exists)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("not: [valid", "expected ',' or ']'"),
        (yaml.safe_dump({"current-context": "x"}), "the kubeconfig"),
    ],
    ids=["no-yaml", "no-contexts"],
)
def test_a_broken_kubeconfig_is_a_problem_not_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, said: str
) -> None:
    path = tmp_path / "config"
    path.write_text(content)
    monkeypatch.setenv("KUBECONFIG", str(path))

    (problem,) = KubeVirtPlatform(make_settings()).problems()

    assert said in problem.what
    assert problem.hint


def test_a_context_that_isn_t_there_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "config"
    cluster = {"name": "a", "cluster": {"server": "https://127.0.0.1:9"}}
    path.write_text(yaml.safe_dump({
        "apiVersion": "v1", "kind": "Config", "current-context": "a", "clusters": [cluster],
        "users": [{"name": "a", "user": {}}],
        "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a", "namespace": "vms"}}],
    }))  # fmt: skip
    monkeypatch.setenv("KUBECONFIG", str(path))

    assert KubeApi().namespace == "vms"
    with pytest.raises(KubekilnError, match="elsewhere"):
        _ = KubeApi(context="elsewhere").namespace


def test_a_broken_connection_is_transient() -> None:
    with pytest.raises(TransientError, match="it: no answer"), errors_of("it"):
        raise urllib3.exceptions.ProtocolError("broken")
