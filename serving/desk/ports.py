"""Ports on this machine: is one free, who has it, give me some."""

from __future__ import annotations

import contextlib
import random
import shutil
import socket
import subprocess
from pathlib import Path

from serving.errors import ChopstickError

# Below Linux's ephemeral range (32768…), from which the kernel serves outgoing connections: a
# replica needs seconds from being given its port to listening on it.
_RANGE = range(24_000, 32_000)


def free_ports(count: int, host: str = "127.0.0.1") -> list[int]:
    """Return `count` different ports that nobody listens on now."""
    found: list[int] = []
    for port in random.sample(_RANGE, len(_RANGE)):
        if len(found) == count:
            return found
        if is_free(port, host):
            found.append(port)
    raise ChopstickError(
        f"only {len(found)} of {count} free ports between {_RANGE.start} and {_RANGE.stop}",
        "stop something that listens there",
    )


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """True where a server could listen on `host:port` now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do: the remains of closed connections (TIME_WAIT) are no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError:
            return False
    return True


def require_free(port: int, host: str, option: str) -> None:
    """Raise ChopstickError, naming the holder where it can be told, unless the port is free.

    `option` is the flag that chooses another port, such as "--port".
    """
    try:
        socket.getaddrinfo(host, port, socket.AF_INET, socket.SOCK_STREAM)
    except OSError as error:
        raise ChopstickError(
            f"--host {host!r} is no IPv4 address or name of this machine: {error}",
            "use 127.0.0.1 for this machine only, 0.0.0.0 for its network",
        ) from None
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except PermissionError:
            raise ChopstickError(
                f"port {port} may not be opened by this user",
                f"choose a port above 1023 with {option}",
            ) from None
        except OSError as error:
            if is_free(port, "127.0.0.1") and host != "127.0.0.1":
                raise ChopstickError(
                    f"cannot listen on {host}:{port}: {error.strerror}",
                    "--host must be an address of this machine; 127.0.0.1 always is",
                ) from None
            holder = who_listens(port)
            raise ChopstickError(
                f"port {port} ({option}) is in use" + (f" by {holder}" if holder else ""),
                f"stop {'it' if holder else 'what listens there'}, "
                f"or choose another port with {option}",
            ) from None


def who_listens(port: int) -> str | None:
    """Return "command (pid N)" of the process that listens on a TCP port; None if not to be told.

    Another user's process can't be told without being root.
    """
    pid = _listener_pid(port) if Path("/proc/net/tcp").exists() else _lsof(port)
    if pid is None:
        return None
    return f"{_command(pid)} (pid {pid})"


def _listener_pid(port: int) -> int | None:
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                fields = line.split()
                # 0A is LISTEN; the local address is hex "ADDRESS:PORT".
                if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
                    inodes.add(f"socket:[{fields[9]}]")
    if not inodes:
        return None
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        # Processes end while we look, and other users' are closed to us.
        with contextlib.suppress(OSError):
            for descriptor in (process / "fd").iterdir():
                with contextlib.suppress(OSError):
                    if str(descriptor.readlink()) in inodes:
                        return int(process.name)
    return None


def _lsof(port: int) -> int | None:
    lsof = shutil.which("lsof")
    if lsof is None:
        return None
    run = subprocess.run(
        [lsof, "-nP", f"-iTCP:{port}", "-sTCP:LISTEN", "-t"],
        capture_output=True,
        text=True,
        check=False,
    )
    first = run.stdout.split()
    return int(first[0]) if first else None


def _command(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        ps = subprocess.run(
            ["ps", "-o", "command=", "-p", str(pid)],  # noqa: S607
            capture_output=True,
            text=True,
            check=False,
        )
        words = [word.encode() for word in ps.stdout.split()]
    name = Path(words[0].decode(errors="replace")).name if words and words[0] else "a process"
    rest = " ".join(word.decode(errors="replace") for word in words[1:4] if word)
    return f"'{name} {rest}'" if rest else f"'{name}'"
