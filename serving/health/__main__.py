"""`python -m serving.health [serve|publish|drain]`: the entry point of the image chopstick-health."""

from __future__ import annotations

import os
import sys

from serving.errors import ChopstickError


def main(arguments: list[str] | None = None) -> int:
    """Run the program and return its exit status."""
    words = sys.argv[1:] if arguments is None else arguments
    try:
        if words[:1] == ["drain"]:
            # A hook beside the sidecar: what `serve` imports would cost it time and memory.
            from serving.health import drain

            drain.run(words[1:], os.environ)
        else:
            _run(words)
    except ChopstickError as error:
        print(f"error: {error.message}", file=sys.stderr)  # noqa: T201
        if error.remedy:
            print(f"  {error.remedy}", file=sys.stderr)  # noqa: T201
        return error.exit_code
    return 0


def _run(words: list[str]) -> None:
    # gRPC's C core would write to standard error, in a format of its own, what a poll tells anyway.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    import asyncio

    from serving.health import config, logs, sidecar

    command, settings = config.parse(words, os.environ)
    logs.configure()
    if command == "publish":
        sidecar.publish(settings)
    else:
        asyncio.run(sidecar.serve(settings))


if __name__ == "__main__":
    sys.exit(main())
