"""The flags of `tensorflow_model_server`, once: names, types, defaults, what they do here.

Source of names and defaults: tensorflow_serving/model_servers/main.cc and server.h, 2.19 to 2.21.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any


def schedulable_cpus() -> int:
    """CPUs this process may run on: the affinity mask, not the cgroup quota, as TFS counts them."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _flag(default: Any, text: str, *, here: bool = True) -> Any:
    metadata = {"help": text, "here": here}
    if callable(default):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


def _four_per_cpu() -> int:
    return 4 * schedulable_cpus()


@dataclass
class ServerOptions:
    """Values of the flags. A flag whose metadata says `here: False` has no meaning in Python."""

    port: int = _flag(8500, "TCP port for gRPC; 0 turns it off.")
    grpc_socket_path: str = _flag("", "UNIX socket for gRPC, instead of or beside the port.")
    rest_api_port: int = _flag(0, "TCP port for REST and the metrics page; 0 turns them off.")
    rest_api_num_threads: int = _flag(_four_per_cpu, "Threads for REST.", here=False)
    rest_api_timeout_in_ms: int = _flag(30000, "Deadline of a REST call, in milliseconds.")
    rest_api_enable_cors_support: bool = _flag(False, "Send CORS headers.")
    enable_batching: bool = _flag(False, "Gather requests into batches.")
    allow_version_labels_for_unavailable_models: bool = _flag(
        False, "Allow a new label on a version that is not loaded yet."
    )
    batching_parameters_file: str = _flag("", "Text BatchingParameters; needs --enable_batching.")
    enable_per_model_batching_parameters: bool = _flag(
        False, "Read batching_params.pbtxt from each version's directory."
    )
    model_config_file: str = _flag("", "Text ModelServerConfig; overrides name and base path.")
    model_config_file_poll_wait_seconds: int = _flag(
        0, "Seconds between reads of the config file; 0 reads it once."
    )
    model_name: str = _flag("default", "Name of the model.")
    model_base_path: str = _flag("", "Directory that holds the numbered versions.")
    num_load_threads: int = _flag(0, "Threads that load; 0 loads one version after the other.")
    num_unload_threads: int = _flag(0, "Threads that unload.", here=False)
    max_num_load_retries: int = _flag(5, "Retries of a load that failed.")
    load_retry_interval_micros: int = _flag(60_000_000, "Microseconds between those retries.")
    file_system_poll_wait_seconds: int = _flag(
        1, "Seconds between looks for new versions; 0 looks once, negative never."
    )
    flush_filesystem_caches: bool = _flag(True, "Flush file caches after loads.", here=False)
    tensorflow_session_parallelism: int = _flag(0, "Threads of a session, intra and inter op.")
    tensorflow_session_config_file: str = _flag("", "Text ConfigProto for sessions.")
    tensorflow_intra_op_parallelism: int = _flag(0, "Threads within an op; 0 is automatic.")
    tensorflow_inter_op_parallelism: int = _flag(
        0, "Threads across ops; 0 runs each request in the thread that has it."
    )
    use_alts_credentials: bool = _flag(False, "Google ALTS credentials.", here=False)
    ssl_config_file: str = _flag("", "Text SSLConfig with PEM contents; TLS for gRPC.")
    platform_config_file: str = _flag("", "Text PlatformConfigMap.", here=False)
    per_process_gpu_memory_fraction: float = _flag(0.0, "Share of GPU memory.", here=False)
    saved_model_tags: str = _flag("serve", "Comma-separated tags of the graph to load.")
    grpc_channel_arguments: str = _flag("", "k=v,k=v for the gRPC server.")
    grpc_max_threads: int = _flag(
        _four_per_cpu, "Most calls worked on at once; set, more are RESOURCE_EXHAUSTED."
    )
    enable_model_warmup: bool = _flag(True, "Replay assets.extra/tf_serving_warmup_requests.")
    num_request_iterations_for_warmup: int = _flag(0, "Replays of each warm-up request.")
    version: bool = _flag(False, "Print the version and exit.")
    monitoring_config_file: str = _flag("", "Text MonitoringConfig; metrics on the REST port.")
    remove_unused_fields_from_bundle_metagraph: bool = _flag(
        True, "Save memory in the meta graph.", here=False
    )
    prefer_tflite_model: bool = _flag(False, "Prefer model.tflite.", here=False)
    num_tflite_pools: int = _flag(schedulable_cpus, "TFLite pools.", here=False)
    num_tflite_interpreters_per_pool: int = _flag(1, "TFLite interpreters.", here=False)
    enable_signature_method_name_check: bool = _flag(
        False, "Ask that a signature's method name fits the call."
    )
    xla_cpu_compilation_enabled: bool = _flag(False, "XLA on CPU.", here=False)
    xla_gpu_compilation_enabled: bool = _flag(False, "XLA on GPU.", here=False)
    enable_profiler: bool = _flag(True, "tensorflow.ProfilerService.", here=False)
    thread_pool_factory_config_file: str = _flag("", "Text ThreadPoolConfig.", here=False)
    mixed_precision: str = _flag("", "Mixed precision mode.", here=False)
    skip_initialize_tpu: bool = _flag(False, "Leave the TPU alone.", here=False)
    enable_grpc_healthcheck_service: bool = _flag(False, "Serve grpc.health.v1.Health.")
    enable_serialization_as_tensor_content: bool = _flag(
        False, "Answer in tensor_content instead of typed fields."
    )

    def without_meaning(self, given: Iterable[str]) -> list[str]:
        """Names among `given` that this server takes and does nothing with."""
        return [name for name in given if not FLAGS[name].metadata["here"]]


FLAGS = {f.name: f for f in dataclasses.fields(ServerOptions)}


class FlagError(Exception):
    """A known flag with a value that is not of its type; TFS exits with 255."""


@dataclass
class ParsedFlags:
    """What a command line said: values, the names given, and the words nobody knows."""

    options: ServerOptions
    given: list[str]
    unknown: list[str]


def parse(arguments: list[str]) -> ParsedFlags:
    """Parse as TFS does: `--flag=value`, bare `--flag` for bools, unknown words are kept aside.

    Raises FlagError for a value that is not of the flag's type.
    """
    parsed = ParsedFlags(ServerOptions(), [], [])
    for argument in arguments:
        name, equals, value = argument.removeprefix("--").partition("=")
        flag = FLAGS.get(name) if argument.startswith("--") else None
        if flag is None or (not equals and flag.type != "bool"):
            parsed.unknown.append(argument)
            continue
        setattr(parsed.options, name, _convert(name, str(flag.type), value if equals else "true"))
        parsed.given.append(name)
    return parsed


def _convert(name: str, kind: str, value: str) -> Any:
    if kind == "str":
        return value
    try:
        if kind == "bool":
            return {"true": True, "1": True, "false": False, "0": False}[value.lower()]
        return {"int": int, "float": float}[kind](value)
    except (KeyError, ValueError):
        raise FlagError(f"Couldn't interpret value {value} for flag {name}.") from None


def usage(program: str) -> str:
    """The list of flags with type, default and meaning, as TFS prints it."""
    lines = [f"usage: {program}", "Flags:"]
    kinds = {"str": "string", "int": "int32", "bool": "bool", "float": "float"}
    defaults = ServerOptions()
    for name, flag in FLAGS.items():
        default = getattr(defaults, name)
        shown = f'"{default}"' if flag.type == "str" else str(default).lower()
        note = "" if flag.metadata["here"] else " (no meaning in this server)"
        lines.append(
            f"\t--{name + '=' + shown:<40}\t{kinds[str(flag.type)]}\t{flag.metadata['help']}{note}"
        )
    return "\n".join(lines) + "\n"
