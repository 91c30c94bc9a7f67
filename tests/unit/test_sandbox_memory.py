# SPDX-License-Identifier: Apache-2.0
"""How much memory may a bake work in?"""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.sandbox import available_memory, gib_for

GIB = 1 << 30
V1 = ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file")
V2 = ("memory.max", "memory.current", "inactive_file")


@pytest.mark.parametrize(
    ("files", "limit", "expected"),
    [(V1, 6 * GIB, 3), (V2, 6 * GIB, 3), (V2, "max", 16), (V1, 0x7FFFFFFFFFFFF000, 16),
     (V2, 1 * GIB, 0)],
    ids=["version 1", "version 2", "version 2, none", "version 1, none", "exceeded"],
)  # fmt: skip
def test_it_is_the_hosts_or_what_the_containers_limit_leaves(
    tmp_path: Path, files: tuple[str, str, str], limit: object, expected: int
) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text(f"MemTotal: 1 kB\nMemAvailable: {16 * GIB // 1024} kB\n")
    written = {files[0]: limit, files[1]: 4 * GIB}
    for name, value in written.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"{value}\n")
    stat = (tmp_path / files[1]).with_name("memory.stat")
    stat.write_text(f"cache 1\n{files[2]} {GIB}\n")

    assert available_memory(meminfo, tmp_path) // GIB == expected


@pytest.mark.parametrize(("tree", "gib"), [(GIB, 3), (3 * GIB, 4), (10 * GIB, 13)])
def test_a_large_tree_gets_a_large_directory(tree: int, gib: int) -> None:
    assert gib_for(tree, least=3) == gib
