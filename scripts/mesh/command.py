"""Running kubectl, linkerd and helm. What goes through standard input is never said."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from typing import Any

from scripts.say import say
from serving.errors import ChopstickError

# An API server that does not answer keeps kubectl waiting for minutes.
KUBECTL = ("kubectl", "--request-timeout=20s")
_KEPT_LINES = 25


def output(command: Sequence[str], remedy: str = "", *, given: str | None = None) -> str:
    """A command's standard output.

    `given` goes to its standard input. Raises ChopstickError with what it wrote to standard
    error, which none of these programs fills with what it was given, when it fails or isn't there.
    """
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, input=given)
    except OSError as error:
        raise ChopstickError(f"cannot run '{command[0]}': {error.strerror}", remedy) from None
    if done.returncode:
        raise ChopstickError(f"`{_named(command)}` failed:\n{indented(done.stderr)}", remedy)
    return done.stdout


def followed(command: Sequence[str], remedy: str = "") -> None:
    """Run a command that takes its time, each line that it says to the terminal as it comes.

    Raises ChopstickError when it fails: what it said is on the terminal already.
    """
    try:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        )
    except OSError as error:
        raise ChopstickError(f"cannot run '{command[0]}': {error.strerror}", remedy) from None
    with process:
        assert process.stdout is not None  # noqa: S101 - for the type checker
        for line in process.stdout:
            if line.strip():
                say(f"    {line.rstrip()}")
    if process.returncode:
        raise ChopstickError(f"`{_named(command)}` ended with {process.returncode}", remedy)


def get(*words: str) -> dict[str, Any] | None:
    """`kubectl get` as JSON; None when there is nothing of that name, or of that kind."""
    try:
        text = output([*KUBECTL, "get", *words, "--ignore-not-found", "-o", "json"])
    except ChopstickError as error:
        if "the server doesn't have a resource type" in error.message:
            return None
        raise
    found: dict[str, Any] | None = json.loads(text) if text.strip() else None
    return found


def apply(manifest: str, remedy: str) -> tuple[int, int]:
    """`kubectl apply` of a manifest through standard input.

    Returns how many objects there are, and how many of them it created or changed. What kubectl
    says of a failure is shown without the objects that it quotes: one may be a Secret.
    """
    # No --request-timeout: it holds for the whole command here, and there are many objects.
    command = ["kubectl", "apply", "-f", "-"]
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, input=manifest)
    except OSError as error:
        raise ChopstickError(f"cannot run 'kubectl': {error.strerror}", remedy) from None
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if not line.lstrip().startswith("{")]
        raise ChopstickError(
            f"`{' '.join(command)}` failed:\n{indented(chr(10).join(lines))}", remedy
        )
    lines = done.stdout.splitlines()
    return len(lines), sum(not line.endswith(" unchanged") for line in lines)


def differs(manifest: str) -> bool:
    """Whether applying a manifest would change anything; true where that can't be told.

    `kubectl apply` calls an object configured whose defaults the server drops again.
    """
    command = ["kubectl", "diff", "-f", "-"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, input=manifest)
    return done.returncode != 0


def indented(text: str) -> str:
    """The last lines of a text, each with four spaces before it.

    `linkerd` says what is wrong and then all its flags, which are left away.
    """
    said = text.partition("\nUsage:")[0].strip()
    return "\n".join(f"    {line}" for line in said.splitlines()[-_KEPT_LINES:])


def _named(command: Sequence[str]) -> str:
    """A command as far as it identifies itself: without the paths of options."""
    words = [word for word in command if not word.startswith("--request-timeout")]
    return " ".join(words[:5]) + (" …" if len(words) > 5 else "")
