"""What this machine, and the container around this process, let it use."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Machine", "inspect_machine"]

CGROUP = Path("/sys/fs/cgroup")
PROC = Path("/proc")
DEVICES = Path("/sys/devices/system")


@dataclass(frozen=True, slots=True)
class Machine:
    """Cores and memory this process may use, limits of its control group included; bytes.

    cores: physical ones; two threads that share one add little to arithmetic or to memory traffic.
    level2_bytes: of second-level cache for each core, None where the system does not say.
    """

    processor: str
    features: tuple[str, ...]
    cores: int
    numa_nodes: int
    total_memory: int
    free_memory: int
    memory_limit: int | None
    level2_bytes: int | None


def inspect_machine(cgroup: Path = CGROUP, proc: Path = PROC, devices: Path = DEVICES) -> Machine:
    """Read the machine's resources now."""
    total, free = _meminfo(proc)
    limits = [found for group in _groups(cgroup, proc, "memory") if (found := _memory(group))]
    for limit, used in limits:
        free = min(free, max(limit - used, 0))
    least = min((limit for limit, _ in limits), default=None)
    cpus = _cpus()
    cores = max(1, min([_physical_cores(cpus, devices), *_quotas(cgroup, proc)]))
    nodes = _numa_nodes(cpus, devices)
    processor, features = _processor(proc)
    level2 = _level2_bytes(cpus, devices)
    return Machine(processor, features, cores, nodes, total, free, least, level2)


def _groups(cgroup: Path, proc: Path, controller: str) -> list[Path]:
    """The control groups that this process is in for a controller: its own, and all above it.

    Lines of /proc/self/cgroup are `0::/path` (version 2) or `4:cpu,cpuacct:/path` (version 1).
    """
    found = []
    for line in (_read(proc / "self" / "cgroup") or "").splitlines():
        number, controllers, path = line.split(":", 2)
        if number != "0" and controller not in controllers.split(","):
            continue
        base = cgroup if number == "0" else cgroup / controller
        parts = [part for part in path.split("/") if part]
        if ".." not in parts:  # a group outside of what this container sees
            found += [base.joinpath(*parts[:depth]) for depth in range(len(parts), 0, -1)]
    return [*found, cgroup, cgroup / controller]


def _cpus() -> set[int]:
    """The logical processors of the affinity mask, which the cpuset of a control group narrows."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _physical_cores(cpus: set[int], devices: Path) -> int:
    """Cores that these logical processors belong to; where the system does not say, one each."""
    siblings = set()
    for cpu in cpus:
        topology = devices / "cpu" / f"cpu{cpu}" / "topology"
        shared = _read(topology / "core_cpus_list") or _read(topology / "thread_siblings_list")
        siblings.add(shared or str(cpu))
    return len(siblings)


def _level2_bytes(cpus: set[int], devices: Path) -> int | None:
    """A core's share of its second-level cache; of two kinds of cores, the smaller one."""
    shares = []
    for cpu in {min(cpus), max(cpus)}:  # cores of one kind are numbered one after the other
        for cache in (devices / "cpu" / f"cpu{cpu}" / "cache").glob("index*"):
            size = (_read(cache / "size") or "").removesuffix("K")
            if _read(cache / "level") == "2" and size.isdigit():
                sharing = _cpu_list(_read(cache / "shared_cpu_list") or "") or {cpu}
                shares.append(int(size) * 1024 // _physical_cores(sharing, devices))
    return min(shares, default=None)


def _numa_nodes(cpus: set[int], devices: Path) -> int:
    """Memory nodes that these logical processors are next to, at least one."""
    nodes = (_cpu_list(_read(path) or "") for path in (devices / "node").glob("node*/cpulist"))
    return max(1, sum(bool(cpus & node) for node in nodes))


def _cpu_list(text: str) -> set[int]:
    """The kernel's way to write a set: "0-3,8"."""
    found: set[int] = set()
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return found


def _quotas(cgroup: Path, proc: Path) -> list[int]:
    """Whole cores that each control group above this process grants, where one has a limit."""
    return [found for group in _groups(cgroup, proc, "cpu") if (found := _quota(group))]


def _quota(group: Path) -> int | None:
    """Whole cores that a group may use, rounded up; None without a quota."""
    quota, _, period = (_read(group / "cpu.max") or "").partition(" ")
    if not quota:
        quota = _read(group / "cpu.cfs_quota_us") or ""
        period = _read(group / "cpu.cfs_period_us") or ""
    if not (quota.isdigit() and period.isdigit()):  # "max", "-1", or no such file
        return None
    return -(-int(quota) // int(period))


def _memory(group: Path) -> tuple[int, int] | None:
    """A group's limit and what counts against it that cannot be given back; None without one."""
    for limit_name, used_name, given_back in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        limit, used = _read(group / limit_name) or "", _read(group / used_name) or ""
        if limit.isdigit() and used.isdigit() and int(limit) < 2**60:
            stat = (line.split() for line in (_read(group / "memory.stat") or "").splitlines())
            files = sum(int(line[1]) for line in stat if line[0] == given_back)
            return int(limit), max(int(used) - files, 0)
    return None


def _meminfo(proc: Path) -> tuple[int, int]:
    text = _read(proc / "meminfo")
    if text is None:
        pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return pages, pages // 2
    sizes = {
        line.split(":")[0]: int(line.split()[1]) * 1024 for line in text.splitlines() if ":" in line
    }
    return sizes["MemTotal"], sizes.get("MemAvailable") or sizes["MemFree"]


def _processor(proc: Path) -> tuple[str, tuple[str, ...]]:
    """The processor's name and what it can do, of the first of them."""
    first = (_read(proc / "cpuinfo") or "").partition("\n\n")[0]
    facts = {
        name.strip(): value.strip()
        for name, _, value in (line.partition(":") for line in first.splitlines())
    }
    features = facts.get("flags") or facts.get("Features") or ""
    name = facts.get("model name") or platform.processor() or platform.machine()
    return name, tuple(features.split())


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None
