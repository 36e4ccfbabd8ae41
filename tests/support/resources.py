"""What a process uses, from /proc."""

from dataclasses import dataclass
from pathlib import Path


@dataclass
class Usage:
    """Resident memory in MiB, threads, open file descriptors."""

    rss: float
    threads: int
    descriptors: int

    def __str__(self) -> str:
        return f"{self.rss:.0f} MiB, {self.threads} threads, {self.descriptors} descriptors"


def usage(pid: int) -> Usage:
    fields = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    return Usage(
        int(fields["VmRSS"].split()[0]) / 1024,
        int(fields["Threads"]),
        sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir()),
    )


def reset_peak(pid: int) -> None:
    """Start `peak` anew."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def peak(pid: int) -> float:
    """Most resident memory since `reset_peak`, in MiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise AssertionError("no VmHWM")


def open_files(pid: int, part: str) -> list[str]:
    """Files whose path has `part` in it that the process has open or mapped."""
    names = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            names.add(str(link.readlink()))
        except FileNotFoundError:
            continue
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        names.add(line.split(maxsplit=5)[-1])
    return sorted(name for name in names if part in name)
