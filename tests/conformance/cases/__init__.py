"""Importing this package registers every case and profile."""

from tests.conformance.cases import (  # noqa: F401
    batching,
    config,
    flags,
    grpc_api,
    metrics,
    rest_api,
    versions,
)
