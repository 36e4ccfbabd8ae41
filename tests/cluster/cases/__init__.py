"""The cases, in the order in which they run: each import registers its own.

Those that leave `unmeshed` alone come first, `footprint` after them as it wants pods of some age.
"""

from tests.cluster.cases import (  # noqa: F401, I001 - the order is the cases' order
    deploy,
    neighbours,
    components,
    model_volume,
    footprint,
    changes,
    autoscaling,
    config,
    bad_versions,
    faults,
    overload,
)
