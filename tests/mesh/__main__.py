"""`python -m tests.mesh [CASE]...`: overlay prod behind the Linkerd of KUBECONFIG's cluster.

Each CASE is a part of a case's name; without one all of them run. Results go to build/e2e-mesh.json,
with --full also into docs/benchmarks.md; what is kept of a failed case is in build/e2e-mesh/<case>/.
Where the cluster has no Linkerd, every case is skipped.
"""

import tests.mesh.cases  # noqa: F401 - registers them
from tests.cluster.report import Results
from tests.cluster.runner import Program
from tests.mesh import linkerd
from tests.mesh.suite import CI, FULL, REGISTRY, MeshContext

PROGRAM = Program(
    "tests.mesh",
    __doc__,
    REGISTRY,
    CI,
    FULL,
    MeshContext,
    Results("e2e-mesh"),
    linkerd.missing,
    lambda cluster: {"Linkerd": linkerd.version(cluster)},
)

if __name__ == "__main__":
    PROGRAM.run()
