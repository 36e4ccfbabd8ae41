"""`python -m tests.cluster [CASE]...`: the end-to-end tests on the cluster of KUBECONFIG.

Each CASE is a part of a case's name; without one all of them run. Results go to build/e2e.json,
with --full also into docs/benchmarks.md; what is kept of a failed case is in build/e2e/<case>/.
"""

import tests.cluster.cases  # noqa: F401 - registers them
from tests.cluster.report import Results
from tests.cluster.runner import Program
from tests.cluster.suite import CI, FULL, REGISTRY, Context

PROGRAM = Program("tests.cluster", __doc__, REGISTRY, CI, FULL, Context, Results("e2e"))

if __name__ == "__main__":
    PROGRAM.run()
