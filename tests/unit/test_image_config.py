# SPDX-License-Identifier: Apache-2.0
"""Is a wrong image configuration refused with file, line and what to do?"""

from __future__ import annotations

from pathlib import Path

import pytest

from kubekiln.errors import ConfigError
from kubekiln.paths import Project
from pipeline.model import load_image

ROOT = Path(__file__).resolve().parents[2]
GOOD = (ROOT / "configs/images/debian-13.yaml").read_text()


def load(tmp_path: Path, text: str) -> str:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_image(str(path), Project(ROOT))
    return str(caught.value)


def test_the_image_is_named_after_its_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(GOOD)

    assert load_image(str(path), Project(ROOT)).name == "mine"
    assert load_image("debian-13", Project(ROOT)).name == "debian-13"


@pytest.mark.parametrize(
    ("old", "new", "message", "key"),
    [
        ("architecture: amd64", "architectur: amd64", "mean 'architecture'?", "architectur"),
        ('kubernetes: "1.37.1"', "kubernetes: 1.37", "is not quoted", "components.kubernetes"),
        ('  etcd: "3.6.14"\n', "", "no version for etcd", "components"),
        ("size_mib: 4096", "size_mib: 12", "greater than or equal to 2048", "disk.size_mib"),
        ("distribution: debian", "distribution: slackware", "'slackware'", "distribution"),
        ("  - loglevel=4", '  - a="b c"', "should match pattern", "kernel_arguments[2]"),
        ("# apt:\n#   build_mirror: http:", "apt:\n  build_mirror: ftp:", "should match pattern",
         "apt.build_mirror"),
        ("[NoCloud]", "[NoCloud, EC2]", "'EC2': input should be 'Akamai'", "datasources[1]"),
        ("[NoCloud]", "[Ec2, NoCloud, Ec2]", "Ec2 is named twice", "datasources[2]"),
    ],
    ids=["typo", "unquoted version", "missing component", "tiny disk", "unknown distribution",
         "quote in an argument", "no URL", "no datasource", "a datasource twice"],
)  # fmt: skip
def test_a_mistake_is_told_with_its_place(
    tmp_path: Path, old: str, new: str, message: str, key: str
) -> None:
    assert old in GOOD

    told = load(tmp_path, GOOD.replace(old, new, 1))

    assert message in told
    assert "mine.yaml:" in told
    assert f"({key})" in told


def test_an_unknown_image_is_told_what_there_is() -> None:
    with pytest.raises(ConfigError, match="there are: .*debian-13"):
        load_image("debian-99", Project(ROOT))
