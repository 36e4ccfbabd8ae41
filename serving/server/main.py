"""Life of a model server process: flags in, ports open, signals, a clean end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, NoReturn

from serving.protocol.status import ServingError
from serving.server import logs, options
from serving.server.logs import log
from serving.server.options import ServerOptions

# TFS exits with -1.
EXIT_FAILED = 255
# For connections, of which each is one, and models.
DESCRIPTORS = 65_536
TFS_VERSION = "2.21.0"


@dataclass
class Settings:
    """What TFS has no flag for."""

    host: str = "0.0.0.0"  # noqa: S104 - TFS has no flag for the address and binds all
    grace_seconds: float = 30.0
    """How long requests in flight may take after SIGTERM."""
    ignore_sigterm: bool = False
    """True does what TFS does: nothing, until SIGKILL."""
    monitoring_path: str | None = None
    """Serves the metrics page there without a --monitoring_config_file."""

    @classmethod
    def from_environment(cls) -> Settings:
        """CHOPSTICK_HOST, CHOPSTICK_GRACE_SECONDS and CHOPSTICK_SIGTERM=ignore.

        Raises ValueError naming the variable that makes no sense.
        """
        settings = cls(host=os.environ.get("CHOPSTICK_HOST", cls.host))
        grace = os.environ.get("CHOPSTICK_GRACE_SECONDS", str(cls.grace_seconds))
        try:
            settings.grace_seconds = float(grace)
        except ValueError:
            raise ValueError(f"CHOPSTICK_GRACE_SECONDS={grace} is not a number") from None
        sigterm = os.environ.get("CHOPSTICK_SIGTERM", "drain")
        if sigterm not in {"drain", "ignore"}:
            raise ValueError(f"CHOPSTICK_SIGTERM={sigterm} is neither 'drain' nor 'ignore'")
        settings.ignore_sigterm = sigterm == "ignore"
        return settings


def tensorflow_model_server(arguments: Sequence[str] | None = None) -> None:
    """Entry point with TFS's manners: a word it does not know is printed and passed over."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    program = "tensorflow_model_server"
    if "--help" in words:
        sys.stdout.write(options.usage(program))
        sys.exit(EXIT_FAILED)
    try:
        parsed = options.parse(words)
        settings = Settings.from_environment()
    except (options.FlagError, ValueError) as error:
        sys.stdout.write(f"{error}\n{options.usage(program)}")
        sys.exit(EXIT_FAILED)
    if parsed.options.version:
        sys.stdout.write(
            f"TensorFlow ModelServer: {TFS_VERSION} (chopstick-serving "
            f"{version('chopstick-serving')})\nTensorFlow Library: {version_of_tensorflow()}\n"
        )
        sys.exit(0)
    if parsed.unknown:
        sys.stdout.write(f"unknown argument: {parsed.unknown[0]}\n{options.usage(program)}")
    sys.stdout.flush()
    end(run(parsed.options, settings, parsed.given))


def version_of_tensorflow() -> str:
    """The installed TensorFlow's version, without the seconds that importing it takes."""
    for name in ("tensorflow-cpu", "tensorflow"):
        try:
            return version(name)
        except ImportError:
            continue
    return "unknown"


def run(flags: ServerOptions, settings: Settings, given: Sequence[str] = ()) -> int:
    """Serve until a signal ends it; the process's exit code."""
    logs.configure()
    _raise_descriptor_limit()
    for name in flags.without_meaning(given):
        log.warning(f"--{name} has no meaning in this server and is ignored")
    import uvloop

    return uvloop.run(_serve(flags, settings))


def end(code: int) -> NoReturn:
    """End the process, at once if a thread is still in a model that never finishes.

    The interpreter would wait for it: a load without end would make the process deaf to SIGTERM.
    """
    deadline = time.monotonic() + 1.0
    for thread in threading.enumerate():
        if thread is not threading.main_thread() and not thread.daemon:
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
    sys.exit(code)


def _raise_descriptor_limit() -> None:
    """Allow as many open files and connections as the system does; a shell's default is 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        # macOS has limits of its own below the hard one.
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


async def _serve(flags: ServerOptions, settings: Settings) -> int:
    stop = asyncio.Event()
    _handle_signals(stop, ignore=settings.ignore_sigterm)
    from serving.server import config

    try:
        config.check(flags)
    except ServingError as error:
        return _failed(f"{error.code.name}: {error.message}")
    # Imported under a running loop so that a signal during the seconds this takes is kept.
    from serving.server import grpc_services
    from serving.server.core import ServerCore

    # What is imported stays; the collector need not walk it again and again. Models come later
    # and are not frozen, so that an unloaded one can be collected.
    gc.collect()
    gc.freeze()
    try:
        core = ServerCore(flags)
        monitoring = config.monitoring_path(flags) or settings.monitoring_path
        server, health = grpc_services.build_server(
            core, flags, config.channel_arguments(flags.grpc_channel_arguments)
        )
        started = await _unless_stopped(core.start(), stop)
        if not started:
            await core.close()
            return 0
        _bind(server, flags, settings)
        await server.start()
        for address in _addresses(flags, settings):
            log.info(f"Running gRPC ModelServer at {address} ...")
        http = None
        if flags.rest_api_port and flags.rest_api_port == flags.port:
            log.error(
                "server_options.http_port cannot be same as grpc_port. Please use a different port "
                "for HTTP/REST API. Skipped exporting HTTP/REST API."
            )
        elif flags.rest_api_port:
            from serving.server import rest

            app = rest.build_app(
                core,
                timeout=flags.rest_api_timeout_in_ms / 1000,
                cors=flags.rest_api_enable_cors_support,
                monitoring_path=monitoring,
            )
            http = await _bind_rest(rest, app, settings.host, flags.rest_api_port)
            log.info(f"Exporting HTTP/REST API at:{settings.host}:{flags.rest_api_port} ...")
    except ServingError as error:
        return _failed(f"{error.code.name}: {error.message}")
    except OSError as error:
        return _failed(f"UNKNOWN: {error}")

    await stop.wait()
    log.info("Draining", grace_seconds=settings.grace_seconds)
    if health is not None:
        health.drain()
    endings: list[Any] = [server.stop(settings.grace_seconds)]
    if http is not None:
        endings.append(http.stop(settings.grace_seconds))
    await asyncio.gather(*endings)
    await core.close()
    log.info("Done")
    return 0


def _failed(reason: str) -> int:
    # TFS writes this to standard output, where people look for it.
    sys.stdout.write(f"Failed to start server. Error: {reason}\n")
    sys.stdout.flush()
    return EXIT_FAILED


def _handle_signals(stop: asyncio.Event, *, ignore: bool) -> None:
    def on_signal(number: int) -> None:
        if stop.is_set():
            log.warning("Second signal: ending at once")
            # Not sys.exit: threads that still run a model would be waited for.
            os._exit(128 + number)
        stop.set()

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, on_signal, signal.SIGINT)
    if ignore:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        loop.add_signal_handler(signal.SIGTERM, on_signal, signal.SIGTERM)


async def _unless_stopped(start: Any, stop: asyncio.Event) -> bool:
    """Await `start`; False when a signal came first."""
    starting = asyncio.ensure_future(start)
    stopping = asyncio.ensure_future(stop.wait())
    await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not starting.done():
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        return False
    await starting
    return not stop.is_set()


def _addresses(flags: ServerOptions, settings: Settings) -> list[str]:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    result = [f"{host}:{flags.port}"] if flags.port else []
    if flags.grpc_socket_path:
        result.append(f"unix:{flags.grpc_socket_path}")
    return result


def _bind(server: Any, flags: ServerOptions, settings: Settings) -> None:
    """Bind every address; raises ServingError naming the one that can't be bound."""
    credentials = _credentials(flags)
    for address in _addresses(flags, settings):
        try:
            if credentials is None or address.startswith("unix:"):
                server.add_insecure_port(address)
            else:
                server.add_secure_port(address, credentials)
        except RuntimeError:
            raise ServingError(
                2, f"Failed to bind {address} for gRPC: is another server running there?"
            ) from None


async def _bind_rest(rest: Any, app: Any, host: str, port: int) -> Any:
    """The running REST server; raises ServingError naming the address that can't be bound."""
    try:
        return await rest.serve_rest(app, host, port)
    except OSError as error:
        raise ServingError(2, f"Failed to bind {host}:{port} for REST: {error.strerror}") from None


def _credentials(flags: ServerOptions) -> Any:
    if not flags.ssl_config_file:
        return None
    import grpc

    from serving.protocol import messages
    from serving.server import config

    ssl = config.read_text_proto(flags.ssl_config_file, messages.SSLConfig)
    return grpc.ssl_server_credentials(
        [(ssl.server_key.encode(), ssl.server_cert.encode())],
        root_certificates=ssl.custom_ca.encode() or None,
        require_client_auth=ssl.client_verify,
    )


if __name__ == "__main__":
    tensorflow_model_server()
