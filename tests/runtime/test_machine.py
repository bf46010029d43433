"""What a process may use, read from made-up /proc and control group trees."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from quire.runtime.machine import inspect_machine

GIB = 1024**3
MEMINFO = """MemTotal:       16777216 kB
MemFree:         1048576 kB
MemAvailable:    8388608 kB
"""
CPUINFO = """processor\t: 0
model name\t: Fast Processor 9000 @ 3.00GHz
flags\t\t: fpu avx2
"""


@pytest.fixture
def trees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path, Path]:
    """A control group tree and a /proc of a machine with 8 cores, 16 GiB, 8 GiB available."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    write(tmp_path / "proc" / "meminfo", MEMINFO)
    write(tmp_path / "proc" / "cpuinfo", CPUINFO)
    (tmp_path / "cgroup").mkdir()
    return tmp_path / "cgroup", tmp_path / "proc", tmp_path / "devices"


Trees = tuple[Path, Path, Path]


def write(path: Path, text: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n")


def version_2(group: Path, limit: object = "max", used: int = 0, inactive: int = 0) -> None:
    write(group / "memory.max", limit)
    write(group / "memory.current", used)
    write(group / "memory.stat", f"anon 5\ninactive_file {inactive}\nactive_file 7")


def version_1(group: Path, limit: int, used: int = 0, inactive: int = 0) -> None:
    write(group / "memory.limit_in_bytes", limit)
    write(group / "memory.usage_in_bytes", used)
    write(group / "memory.stat", f"inactive_file 3\ntotal_inactive_file {inactive}")


def test_a_machine_without_limits(trees: Trees) -> None:
    machine = inspect_machine(*trees)
    assert machine.processor == "Fast Processor 9000 @ 3.00GHz"
    assert (machine.cores, machine.memory_limit) == (8, None)
    assert (machine.total_memory, machine.free_memory) == (16 * GIB, 8 * GIB)
    assert machine.features == ("fpu", "avx2")


def test_this_machine() -> None:
    machine = inspect_machine()
    assert machine.cores >= 1
    assert 0 < machine.free_memory <= machine.total_memory


def test_without_any_files_a_guess_is_made(tmp_path: Path) -> None:
    machine = inspect_machine(*[tmp_path / "none"] * 3)
    assert machine.cores >= 1 and machine.processor
    assert machine.free_memory == machine.total_memory // 2 > 0


def test_an_old_kernel_without_available_memory(trees: Trees) -> None:
    write(trees[1] / "meminfo", "MemTotal: 2048 kB\nMemFree: 1024 kB")
    assert inspect_machine(*trees).free_memory == 1024 * 1024


# --- second-level caches


def caches(devices: Path, cpu: int, level2: str, shared: str, core: str) -> None:
    for index, (level, size) in enumerate([(1, "32K"), (2, level2), (3, "32768K")]):
        cache = devices / "cpu" / f"cpu{cpu}" / "cache" / f"index{index}"
        write(cache / "level", level)
        write(cache / "size", size)
        write(cache / "shared_cpu_list", shared)
    write(devices / "cpu" / f"cpu{cpu}" / "topology" / "core_cpus_list", core)


def test_a_cache_of_each_core(trees: Trees) -> None:
    for cpu in range(8):  # two threads a core
        pair = f"{cpu // 2 * 2}-{cpu // 2 * 2 + 1}"
        caches(trees[2], cpu, "1024K", pair, pair)
    assert inspect_machine(*trees).level2_bytes == 1024 * 1024


def test_a_cache_that_cores_share_and_a_smaller_one(trees: Trees) -> None:
    for cpu in range(4):
        caches(trees[2], cpu, "4096K", "0-3", str(cpu))
    caches(trees[2], 7, "2048K", "7", "7")
    assert inspect_machine(*trees).level2_bytes == 1024 * 1024


def test_caches_that_the_system_does_not_show(trees: Trees) -> None:
    assert inspect_machine(*trees).level2_bytes is None


# --- memory


@pytest.mark.parametrize(
    ("limit", "used", "inactive", "free"),
    [
        (4 * GIB, GIB, 0, 3 * GIB),
        (4 * GIB, 3 * GIB, 2 * GIB, 3 * GIB),  # file pages that are not in use can be given back
        (4 * GIB, 5 * GIB, 0, 0),
        (4 * GIB, GIB, 2 * GIB, 4 * GIB),
        (12 * GIB, GIB, 0, 8 * GIB),  # the machine has less than the limit leaves
    ],
)
@pytest.mark.parametrize("version", [1, 2])
def test_a_limit_on_the_container(
    trees: Trees, version: int, limit: int, used: int, inactive: int, free: int
) -> None:
    cgroup = trees[0]
    if version == 2:
        version_2(cgroup, limit, used, inactive)
    else:
        version_1(cgroup / "memory", limit, used, inactive)
    machine = inspect_machine(*trees)
    assert (machine.memory_limit, machine.free_memory) == (limit, free)


def test_no_limit_in_either_version(trees: Trees) -> None:
    cgroup = trees[0]
    version_2(cgroup, "max", 3 * GIB)
    version_1(cgroup / "memory", 9223372036854771712, 3 * GIB)
    machine = inspect_machine(*trees)
    assert (machine.memory_limit, machine.free_memory) == (None, 8 * GIB)


@pytest.mark.parametrize(
    ("line", "own"),
    [
        ("0::/system.slice/quire.service", "system.slice/quire.service"),
        ("4:memory:/docker/abc", "memory/docker/abc"),
        ("4:cpu,memory:/docker/abc", "memory/docker/abc"),
    ],
)
def test_the_limit_of_the_own_group_counts(trees: Trees, line: str, own: str) -> None:
    cgroup, proc, _ = trees
    write(proc / "self" / "cgroup", f"9:name=systemd:/x\n{line}")
    make = version_2 if line.startswith("0") else version_1
    make(cgroup / own, 2 * GIB, GIB)
    machine = inspect_machine(*trees)
    assert (machine.memory_limit, machine.free_memory) == (2 * GIB, GIB)


def test_the_tightest_of_all_groups_above_counts(trees: Trees) -> None:
    cgroup, proc, _ = trees
    write(proc / "self" / "cgroup", "0::/a/b/c")
    version_2(cgroup / "a" / "b" / "c", 4 * GIB, GIB)
    version_2(cgroup / "a" / "b", 5 * GIB, 4 * GIB)  # others fill this one
    version_2(cgroup / "a", "max")
    machine = inspect_machine(*trees)
    assert (machine.memory_limit, machine.free_memory) == (4 * GIB, GIB)


def test_a_group_outside_of_the_container_is_not_looked_for(trees: Trees) -> None:
    cgroup, proc, _ = trees
    write(proc / "self" / "cgroup", "0::/../other")
    version_2(cgroup.parent / "other", GIB)
    assert inspect_machine(*trees).memory_limit is None


# --- cores


@pytest.mark.parametrize(
    ("text", "cores"),
    [
        ("max 100000", 8),
        ("200000 100000", 2),
        ("150000 100000", 2),
        ("50000 100000", 1),
        ("1600000 100000", 8),
        ("", 8),
    ],
)
def test_a_quota_of_version_2(trees: Trees, text: str, cores: int) -> None:
    write(trees[0] / "cpu.max", text)
    assert inspect_machine(*trees).cores == cores


@pytest.mark.parametrize(("quota", "cores"), [(-1, 8), (100000, 1), (250000, 3)])
def test_a_quota_of_version_1(trees: Trees, quota: int, cores: int) -> None:
    write(trees[0] / "cpu" / "cpu.cfs_quota_us", quota)
    write(trees[0] / "cpu" / "cpu.cfs_period_us", 100000)
    assert inspect_machine(*trees).cores == cores


def test_a_quota_of_the_own_group(trees: Trees) -> None:
    cgroup, proc, _ = trees
    write(proc / "self" / "cgroup", "0::/a/b\n3:cpu,cpuacct:/job")
    write(cgroup / "a" / "cpu.max", "300000 100000")
    assert inspect_machine(*trees).cores == 3
    write(cgroup / "cpu" / "job" / "cpu.cfs_quota_us", 200000)
    write(cgroup / "cpu" / "job" / "cpu.cfs_period_us", 100000)
    assert inspect_machine(*trees).cores == 2


def test_the_affinity_mask_counts(trees: Trees, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5}, raising=False)
    write(trees[0] / "cpu.max", "400000 100000")
    assert inspect_machine(*trees).cores == 2


def test_a_system_without_affinity(trees: Trees, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert inspect_machine(*trees).cores == 6


@pytest.mark.parametrize("name", ["core_cpus_list", "thread_siblings_list"])
def test_two_threads_of_a_core_count_once(trees: Trees, name: str) -> None:
    for cpu in range(8):
        write(trees[2] / "cpu" / f"cpu{cpu}" / "topology" / name, f"{cpu % 4},{cpu % 4 + 4}")
    assert inspect_machine(*trees).cores == 4
    write(trees[0] / "cpu.max", "300000 100000")
    assert inspect_machine(*trees).cores == 3


def test_half_a_core_in_the_affinity_mask(trees: Trees, monkeypatch: pytest.MonkeyPatch) -> None:
    for cpu in range(8):
        topology = trees[2] / "cpu" / f"cpu{cpu}" / "topology"
        write(topology / "core_cpus_list", f"{cpu // 2 * 2}-{cpu // 2 * 2 + 1}")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 2, 3, 6}, raising=False)
    assert inspect_machine(*trees).cores == 3


def test_memory_nodes_next_to_the_affinity_mask(
    trees: Trees, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert inspect_machine(*trees).numa_nodes == 1
    for node, cpus in enumerate(("0-1,4-5", "2,3,6,7", "")):
        write(trees[2] / "node" / f"node{node}" / "cpulist", cpus)
    assert inspect_machine(*trees).numa_nodes == 2
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {2, 7}, raising=False)
    assert inspect_machine(*trees).numa_nodes == 1
