"""The cases, in the order in which they run: each import registers its own."""

from tests.mesh.cases import (  # noqa: F401, I001 - the order is the cases' order
    check,
    balance,
    changes,
    faults,
    breaker,
    identity,
    rate_limit,
    wire,
    traps,
    cost,
)
