"""The text-format files that the server reads, and what a valid model configuration is."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from google.protobuf import text_format
from google.protobuf.message import Message

from serving.protocol import messages
from serving.protocol.status import invalid_argument, not_found
from serving.server.options import ServerOptions

M = TypeVar("M", bound=Message)
DEFAULT_MONITORING_PATH = "/monitoring/prometheus/metrics"


def read_text_proto(path: str, kind: type[M]) -> M:
    """Parse a text-format file.

    Raises ServingError: NOT_FOUND for a file that can't be read, INVALID_ARGUMENT for one that is
    no such message, with the line where it stops making sense after TFS's words.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
        return text_format.Parse(text, kind(), descriptor_pool=messages.POOL)
    except OSError as error:
        raise not_found(f"{path}; {error.strerror}") from None
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise invalid_argument(f"Invalid protobuf file: '{path}': {error}") from None


def model_server_config(options: ServerOptions) -> messages.ModelServerConfig:
    """The configuration that the flags ask for: the config file's, or one model's."""
    if options.model_config_file:
        return read_text_proto(options.model_config_file, messages.ModelServerConfig)
    if not options.model_base_path:
        raise invalid_argument(
            "Both server_options.model_base_path and server_options.model_config_file are empty!"
        )
    config = messages.ModelServerConfig()
    config.model_config_list.config.add(
        name=options.model_name, base_path=options.model_base_path, model_platform="tensorflow"
    )
    return config


def check(options: ServerOptions) -> None:
    """Raise ServingError for flags and files that can't be right.

    All that can be known without TensorFlow, so that a slip of the hand is told at once and not
    after the seconds that importing it takes.
    """
    if not options.port and not options.grpc_socket_path:
        raise invalid_argument(
            "At least one of server_options.grpc_port or server_options.grpc_socket_path must be "
            "set."
        )
    if options.use_alts_credentials and options.ssl_config_file:
        raise invalid_argument(
            "Either use_alts_credentials must be false or ssl_config_file must be empty."
        )
    if (
        options.tensorflow_session_parallelism > 0
        and options.tensorflow_intra_op_parallelism > 0
        and options.tensorflow_inter_op_parallelism > 0
    ):
        raise invalid_argument(
            "Either configure server_options.tensorflow_session_parallelism or "
            "(server_options.tensorflow_intra_op_parallelism, "
            "server_options.tensorflow_inter_op_parallelism) separately. You cannot configure all."
        )
    batching_parameters(options)
    channel_arguments(options.grpc_channel_arguments)
    monitoring_path(options)
    config = model_server_config(options)
    validate(config)
    validate_platforms(config)


def batching_parameters(options: ServerOptions) -> messages.BatchingParameters | None:
    """What --enable_batching asks for, or None without it; raises ServingError."""
    path = options.batching_parameters_file
    if path and not options.enable_batching:
        raise invalid_argument(
            "server_options.batching_parameters_file is set without setting "
            "server_options.enable_batching to true."
        )
    if not options.enable_batching:
        return None
    if path:
        return read_text_proto(path, messages.BatchingParameters)
    parameters = messages.BatchingParameters()
    parameters.thread_pool_name.value = "model_server_batch_threads"
    return parameters


def validate(
    config: messages.ModelServerConfig, old: messages.ModelServerConfig | None = None
) -> None:
    """Raise ServingError (INVALID_ARGUMENT) with TFS's words for what it refuses at once.

    What it refuses only after it has taken the labels over is `validate_platforms`.
    """
    if config.WhichOneof("config") == "custom_model_config":
        raise invalid_argument("Missing custom_model_config_loader in ServerCore Options")
    seen: set[str] = set()
    for model in config.model_config_list.config:
        if model.name in seen:
            raise invalid_argument(
                f"Illegal to list model {model.name} multiple times in config list"
            )
        seen.add(model.name)
    for model in config.model_config_list.config:
        if not is_absolute(model.base_path):
            raise invalid_argument(
                f"Expected model {model.name} to have an absolute path or URI; "
                f"got base_path()={model.base_path}"
            )
    platforms = {c.name: platform(c) for c in old.model_config_list.config} if old else {}
    for model in config.model_config_list.config:
        if model.name not in platforms:
            continue
        old_platform, new_platform = platforms[model.name], platform(model)
        if new_platform != old_platform:
            raise invalid_argument(
                f"Illegal to change a model's platform. For model {model.name} platform was "
                f"{old_platform} and new platform requested is {new_platform}"
            )


def validate_platforms(config: messages.ModelServerConfig) -> None:
    """Raise ServingError (INVALID_ARGUMENT) for a model of no platform or of an unknown one."""
    for model in config.model_config_list.config:
        wanted = platform(model)
        if wanted != "tensorflow":
            raise invalid_argument(f"Model {model.name} requests unsupported platform {wanted}")


def platform(model: messages.ModelConfig) -> str:
    """The platform a model asks for; model_type 1 is the deprecated way to say "tensorflow"."""
    if model.model_type:
        if model.model_platform:
            raise invalid_argument(
                "Illegal setting both ModelServerConfig::model_type (deprecated) and "
                f"ModelServerConfig::model_platform, model name is {model.name}"
            )
        if model.model_type != 1:
            raise invalid_argument(
                f"ModelServerConfig::model_type choice {model.model_type} not supported."
            )
        return "tensorflow"
    if not model.model_platform:
        raise invalid_argument(
            "Illegal setting neither ModelServerConfig::model_type (deprecated) nor "
            f"ModelServerConfig::model_platform, model name is {model.name}"
        )
    return model.model_platform


def is_absolute(path: str) -> bool:
    """True for an absolute path or a URI; an empty path is neither."""
    return path.startswith("/") or "://" in path


def monitoring_path(options: ServerOptions) -> str | None:
    """Where the metrics page is, or None when there is none (also when REST is off)."""
    if not options.monitoring_config_file or not options.rest_api_port:
        return None
    config = read_text_proto(options.monitoring_config_file, messages.MonitoringConfig)
    if not config.prometheus_config.enable:
        return None
    return config.prometheus_config.path or DEFAULT_MONITORING_PATH


def channel_arguments(text: str) -> list[tuple[str, int | str]]:
    """`k=v,k=v` as gRPC options, integers as such.

    Raises ServingError (INVALID_ARGUMENT) for an item without `=`, where TFS has no defined
    behaviour.
    """
    result: list[tuple[str, int | str]] = []
    for item in filter(None, text.split(",")):
        key, equals, value = item.partition("=")
        if not equals:
            raise invalid_argument(
                f"--grpc_channel_arguments: '{item}' is not of the form key=value"
            )
        result.append((key, int(value) if value.lstrip("-").isdigit() else value))
    return result
