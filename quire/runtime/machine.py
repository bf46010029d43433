"""What this machine, and the container around this process, let it use."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Machine", "inspect_machine"]

CGROUP = Path("/sys/fs/cgroup")
PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Machine:
    """Cores and memory this process may use, limits of its control group included; bytes."""

    processor: str
    cores: int
    total_memory: int
    free_memory: int
    memory_limit: int | None


def inspect_machine(cgroup: Path = CGROUP, proc: Path = PROC) -> Machine:
    """Read the machine's resources now."""
    total, available = _meminfo(proc)
    limit, used = _cgroup_memory(cgroup)
    free = available if limit is None else min(available, max(limit - used, 0))
    return Machine(_processor_name(proc), _cores(cgroup), total, free, limit)


def _cores(cgroup: Path) -> int:
    """Cores in the affinity mask, at most the control group's quota, at least one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    quota = _cgroup_quota(cgroup)
    return max(1, min(cores or 1, quota or cores or 1))


def _cgroup_quota(cgroup: Path) -> int | None:
    """Whole cores the quota allows, rounded up; None without a quota."""
    text = _read(cgroup / "cpu.max")
    if text is not None:
        quota, _, period = text.partition(" ")
        return None if quota == "max" else -(-int(quota) // int(period))
    quota_v1 = _read(cgroup / "cpu" / "cpu.cfs_quota_us")
    period_v1 = _read(cgroup / "cpu" / "cpu.cfs_period_us")
    if quota_v1 is None or period_v1 is None or int(quota_v1) <= 0:
        return None
    return -(-int(quota_v1) // int(period_v1))


def _cgroup_memory(cgroup: Path) -> tuple[int | None, int]:
    """The limit, if there is one, and what counts against it that cannot be given back."""
    for limit_name, used_name, stat_name, key in (
        ("memory.max", "memory.current", "memory.stat", "inactive_file"),
        (
            "memory/memory.limit_in_bytes",
            "memory/memory.usage_in_bytes",
            "memory/memory.stat",
            "total_inactive_file",
        ),
    ):
        limit, used = _read(cgroup / limit_name), _read(cgroup / used_name)
        if limit is None or used is None:
            continue
        if limit == "max" or int(limit) >= 2**60:
            return None, 0
        stat = dict(line.split() for line in (_read(cgroup / stat_name) or "").splitlines())
        return int(limit), max(int(used) - int(stat.get(key, 0)), 0)
    return None, 0


def _meminfo(proc: Path) -> tuple[int, int]:
    text = _read(proc / "meminfo")
    if text is None:
        pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return pages, pages // 2
    sizes = {
        line.split(":")[0]: int(line.split()[1]) * 1024 for line in text.splitlines() if ":" in line
    }
    return sizes["MemTotal"], sizes.get("MemAvailable", sizes["MemFree"])


def _processor_name(proc: Path) -> str:
    for line in (_read(proc / "cpuinfo") or "").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None
