"""TensorFlow Serving's messages, without TensorFlow.

Classes live in a descriptor pool of their own: registered in protobuf's default pool, the same
files would break a later `import tensorflow` of another version with `duplicate file name
tensorflow/core/framework/tensor_shape.proto`. Top-level messages and enums of every file are
attributes of this module by their simple name, built at first use.
"""

from __future__ import annotations

import typing  # not `Any` itself: google.protobuf.Any is a message of this module
from pathlib import Path

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper


def _load() -> tuple[descriptor_pool.DescriptorPool, dict[str, str], dict[str, tuple[str, int]]]:
    pool = descriptor_pool.DescriptorPool()
    names: dict[str, str] = {}
    values: dict[str, tuple[str, int]] = {}
    data = Path(__file__).with_name("descriptors.binpb").read_bytes()
    for file in descriptor_pb2.FileDescriptorSet.FromString(data).file:
        pool.Add(file)
        prefix = f"{file.package}." if file.package else ""
        for kind in (file.message_type, file.enum_type):
            for item in kind:
                names.setdefault(item.name, prefix + item.name)
        for enum in file.enum_type:
            for value in enum.value:
                values.setdefault(value.name, (enum.name, value.number))
    return pool, names, values


POOL, _NAMES, _ENUM_VALUES = _load()


def __getattr__(name: str) -> typing.Any:
    if name in _NAMES:
        full_name = _NAMES[name]
        try:
            built: typing.Any = message_factory.GetMessageClass(
                POOL.FindMessageTypeByName(full_name)
            )
        except KeyError:
            built = EnumTypeWrapper(POOL.FindEnumTypeByName(full_name))
    elif name in _ENUM_VALUES:
        built = _ENUM_VALUES[name][1]
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = built
    return built


def __dir__() -> list[str]:
    return sorted({*globals(), *_NAMES, *_ENUM_VALUES})
