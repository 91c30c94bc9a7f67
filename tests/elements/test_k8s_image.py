# SPDX-License-Identifier: Apache-2.0
"""What do the elements that make the operating system do to the root?"""

from __future__ import annotations

import os
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

from tests.support.elements import ELEMENTS, EPOCH, FakeBuild

pytestmark = pytest.mark.processes("bash", "unshare")


@pytest.fixture
def build(tmp_path: Path) -> FakeBuild:
    return FakeBuild(tmp_path)


def test_debian_is_made_with_all_packages_at_once(build: FakeBuild) -> None:
    build.use("k8s-debian")
    build.environment = {
        "DIB_K8S_DEBIAN_MIRROR": "http://m.example/debian",
        "DIB_K8S_DEBIAN_SECURITY_MIRROR": "http://m.example/debian-security",
        "DIB_K8S_DEBIAN_PACKAGES": "systemd-sysv,openssh-server",
        "DIB_RELEASE": "trixie",
    }
    build.put("usr/share/man/man1/ls.1")
    build.put("usr/share/doc/base/changelog")
    build.put("usr/share/doc/base/copyright")
    build.put("usr/share/locale/de")
    build.put("usr/share/info/x")
    build.put("etc/hostname", "builder")
    build.put("etc/resolv.conf", "nameserver 192.0.2.1")
    build.fake("mmdebstrap")
    # As sudo does: what isn't named is gone.
    build.fake(
        "sudo",
        'kept=${1#--preserve-env=}; while [ "${1#--}" != "$1" ]; do shift; done\n'
        'case $1,$kept in mmdebstrap,*,https_proxy,*) ;; mmdebstrap,*) exit 9 ;; esac; exec "$@"',
        quiet=True,
    )

    build.run_outside("root.d/10-k8s-debian")

    (call,) = build.log()
    assert "--include=systemd-sysv,openssh-server" in call
    assert call.endswith(
        "deb http://m.example/debian trixie main deb http://m.example/debian trixie-updates main "
        "deb http://m.example/debian-security trixie-security main"
    )
    assert build.files() == {"usr/share/doc/base/copyright"}


def test_a_cached_base_is_unpacked_and_nothing_installed(build: FakeBuild) -> None:
    build.use("k8s-debian")
    build.environment = {"DIB_K8S_DEBIAN_BASE": "/base.tar"}
    build.fake("mmdebstrap")
    build.fake("tar")

    build.run_outside("root.d/10-k8s-debian")

    (call,) = build.log()
    assert call.startswith(f"tar -C {build.root} -x ")
    assert call.endswith("-f /base.tar")
    assert (build.root / "proc").is_dir()


def test_dib_is_told_that_there_is_no_disk(build: FakeBuild) -> None:
    build.use("k8s-debian")
    (build.directory / "built/etc").mkdir(parents=True)

    told = build.run_outside("block-device.d/10-k8s-debian").text

    assert told == "IMAGE_BLOCK_DEVICE=none"
    assert (build.directory / "mnt/etc").is_dir()
    assert [p.name for p in (build.directory / "built").iterdir()] == ["boot"]


@pytest.mark.root
def test_static_files_land_at_their_place_with_modes_of_their_own(build: FakeBuild) -> None:
    build.use("k8s-debian")
    closed = build.hooks / "static/etc/thing.conf"
    closed.parent.mkdir(parents=True)
    closed.write_text("x")
    closed.chmod(0o600)
    (build.hooks / "static/etc/__pycache__").mkdir()
    (build.root / "etc").mkdir(mode=0o711)

    build.run_outside("extra-data.d/10-k8s-debian-static")

    assert build.files() == {"etc/thing.conf"}
    assert (build.root / "etc/thing.conf").stat().st_mode & 0o777 == 0o644
    assert (build.root / "etc").stat().st_mode & 0o777 == 0o711
    assert (build.root / "etc/thing.conf").stat().st_mtime == float(EPOCH)


@pytest.mark.root
def test_the_images_apt_sources_name_the_public_archive_alone(build: FakeBuild) -> None:
    build.use("k8s-debian")
    build.environment = {
        "DIB_RELEASE": "trixie",
        "DIB_K8S_DEBIAN_MIRROR": "http://builder.example/debian",
        "DIB_K8S_DEBIAN_PUBLIC_MIRROR": "http://m.example/debian",
        "DIB_K8S_DEBIAN_PUBLIC_SECURITY_MIRROR": "http://m.example/debian-security",
    }
    build.put("etc/apt/sources.list", "deb http://builder.example/debian trixie main")
    build.put("etc/apt/sources.list.d/0000builder.list")

    build.run_inside("finalise.d/80-k8s-debian-apt")

    assert {f for f in build.files() if f.startswith("etc")} == {
        "etc/apt/sources.list.d/debian.sources"
    }
    text = (build.root / "etc/apt/sources.list.d/debian.sources").read_text()
    assert "builder" not in text
    assert text.count("Types: deb\n") == 2
    assert "Suites: trixie trixie-updates\n" in text


@pytest.mark.root
def test_users_directories_and_the_images_version_are_there(build: FakeBuild) -> None:
    build.use("k8s-base")
    build.environment = {"DIB_K8S_BASE_KUBERNETES": "1.37.1"}
    for command in ("systemd-sysusers", "systemd-tmpfiles", "passwd"):
        build.fake(command)
    build.put("etc/os-release")

    build.run_inside("post-install.d/20-k8s-base")

    assert (build.root / "etc/kubekiln/image.json").read_text() == (
        '{"schema": 1, "kubernetes": "1.37.1"}\n'
    )
    assert [line.split()[0] for line in build.log()] == [
        "systemd-sysusers", "systemd-tmpfiles", "passwd"
    ]  # fmt: skip


@pytest.mark.root
def test_boot_loaders_for_bios_and_uefi_are_staged(build: FakeBuild) -> None:
    build.use("k8s-boot")
    build.environment = {"DIB_K8S_BOOT_KERNEL_ARGUMENTS": "console=ttyS0 quiet"}
    build.put("boot/grub/grub.cfg")
    for path in ("grub/i386-pc/boot.img", "grub/x86_64-efi-signed/grubx64.efi.signed",
                 "shim/shimx64.efi.signed"):  # fmt: skip
        build.put(f"usr/lib/{path}", path)
    build.fake("grub-mkimage", "touch /boot/grub/i386-pc/core.img")

    build.run_inside("install.d/50-k8s-boot")

    assert {f for f in build.files() if f.startswith("boot")} == {
        "boot/efi/EFI/BOOT/BOOTX64.EFI", "boot/efi/EFI/BOOT/grubx64.efi", "boot/grub/grub.cfg",
        "boot/grub/i386-pc/boot.img", "boot/grub/i386-pc/core.img",
        "boot/grub/kernel-arguments.cfg",
    }  # fmt: skip
    assert "-p (hd0,gpt3)/boot/grub" in build.log()[0]
    assert (build.root / "boot/grub/kernel-arguments.cfg").read_text() == (
        'set kernel_arguments="console=ttyS0 quiet"\n'
    )


@pytest.mark.root
def test_cloud_init_asks_the_named_datasources_alone(build: FakeBuild) -> None:
    build.use("k8s-cloud-init")
    build.environment = {"DIB_K8S_CLOUD_INIT_DATASOURCES": "OpenStack, None"}
    build.put("etc/cloud/cloud.cfg.d/90_dpkg.cfg", "datasource_list: [ Everything ]")

    build.run_inside("post-install.d/20-k8s-cloud-init")

    assert {f for f in build.files() if f.startswith("etc/cloud")} == {
        "etc/cloud/cloud.cfg.d/90-kubekiln-datasources.cfg"
    }
    text = (build.root / "etc/cloud/cloud.cfg.d/90-kubekiln-datasources.cfg").read_text()
    assert text == "datasource_list: [OpenStack, None]\n"


@pytest.mark.root
@pytest.mark.parametrize(
    ("sources", "waits"),
    [("CloudStack", True), ("OpenStack, CloudStack", True), ("OpenStack, NotCloudStack", False)],
)
def test_cloudstack_alone_has_cloud_init_wait_for_a_lease(
    build: FakeBuild, sources: str, waits: bool
) -> None:
    build.use("k8s-cloud-init")
    build.environment = {"DIB_K8S_CLOUD_INIT_DATASOURCES": sources}
    build.put("etc/cloud/cloud.cfg.d/90_dpkg.cfg")

    build.run_inside("post-install.d/20-k8s-cloud-init")

    drop_in = "etc/systemd/system/cloud-init-network.service.d/kubekiln-lease.conf"
    wanted = "Wants=systemd-networkd-wait-online.service"
    assert (drop_in in build.files()) == waits
    assert not waits or wanted in (build.root / drop_in).read_text()


@pytest.mark.root
def test_units_are_enabled_by_one_call_from_all_preset_files(build: FakeBuild) -> None:
    build.use("k8s-seal")
    presets = "usr/lib/systemd/system-preset"
    build.put(f"{presets}/10-k8s-a.preset", "# why\nenable a.service\ndisable b.timer\n")
    build.put(f"{presets}/50-kubekiln.preset", "enable c.service\n")
    build.fake("systemctl")

    build.run_inside("post-install.d/80-k8s-seal-presets")

    (call,) = build.log()
    assert call.startswith("systemctl preset ")
    assert sorted(call.split()[2:]) == ["a.service", "b.timer", "c.service"]


def test_google_is_asked_by_address_as_no_name_is_resolved_that_early() -> None:
    path = ELEMENTS / "k8s-cloud-init/static/etc/cloud/cloud.cfg.d/50-kubekiln.cfg"
    url = urlsplit(yaml.safe_load(path.read_text())["datasource"]["GCE"]["metadata_url"])

    assert ip_address(str(url.hostname)).is_link_local
    assert url.path == "/computeMetadata/v1/", "its paths are appended to it"


@pytest.mark.root
def test_the_seal_takes_out_identity_and_residue_and_nothing_else(build: FakeBuild) -> None:
    build.use("k8s-seal")
    kept = {
        "etc/ssh/sshd_config",
        "var/lib/dpkg/status",
        "root/kept",
        "var/lib/apt/extended_states",
    }
    gone = {
        "etc/ssh/ssh_host_rsa_key", "etc/hostname", "var/lib/dbus/machine-id", "root/.bashrc",
        "var/lib/systemd/random-seed", "var/lib/cloud/data/x", "var/lib/dpkg/status-old",
        "var/log/dpkg.log", "var/log/apt/history.log", "var/lib/apt/lists/x", "var/tmp/x",
        "etc/dpkg/dpkg.cfg.d/kubekiln-bake", "var/cache/apt/pkgcache.bin", "vmlinuz.old",
        "etc/nvme/hostnqn", "etc/nvme/hostid",
    }  # fmt: skip
    for path in kept | gone:
        build.put(path, "x")
    old, new = build.root / "var/lib/dpkg/status", build.root / "root/kept"
    os.utime(old, (1, 1))
    build.put("etc/machine-id", "0123456789abcdef\n")
    initiator = build.put("etc/iscsi/initiatorname.iscsi", "InitiatorName=iqn.1993-08.org:1\n")
    update_done = build.put("usr/lib/systemd/systemd-update-done", "#!/bin/sh\n", mode=0o755)
    update_done.write_text("#!/bin/sh\ntouch /etc/.updated /var/.updated\n")

    build.run_inside("finalise.d/88-k8s-seal")

    there = {f for f in build.files() if not f.startswith(("usr", "bin", "sbin", "lib"))}
    names = {"machine-id", "hosts", ".updated", "iscsi/initiatorname.iscsi"}
    assert there == kept | {f"etc/{name}" for name in names} | {"var/.updated"}
    assert initiator.read_text() == "GenerateName=yes\n"
    assert (build.root / "etc/machine-id").read_text() == ""
    assert (build.root / "var/log/apt").is_dir()
    assert (old.stat().st_mtime, new.stat().st_mtime) == (1.0, float(EPOCH))
