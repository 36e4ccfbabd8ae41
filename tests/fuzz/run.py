"""`python -m tests.fuzz.run [--inputs N] [--seed N] [TARGET…]`, which is `make fuzz`."""

import argparse
import multiprocessing
import os
import resource
import sys
import time
import traceback

import hypothesis
from hypothesis import HealthCheck, Phase, Verbosity, given, settings

from tests.fuzz.targets import TARGETS


def fuzz(name: str, inputs: int, seed: int) -> int:
    """Give the target that many inputs; how many it had. Raises what the target raises, shrunk."""
    function, strategy, _ = TARGETS[name]
    tried = 0

    @hypothesis.seed(seed)
    @settings(
        max_examples=inputs,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
        verbosity=Verbosity.quiet,
        print_blob=False,
    )
    @given(strategy())
    def attempt(data: bytes) -> None:
        nonlocal tried
        tried += 1
        try:
            function(data)
        except BaseException as error:
            error.add_note(f"corpus file: {data!r}")
            raise

    attempt()
    return tried


# An example more costs more the more there were; many short runs are faster than a long one.
RUN = 2_000


# A target that asks for more fails with a MemoryError, and does not take the machine with it.
ADDRESS_SPACE = 8 << 30


def _limit() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, resource.RLIM_INFINITY))


def _run(job: tuple[str, int, int]) -> tuple[str, int, float, str]:
    name, inputs, seed = job
    began = time.monotonic()
    try:
        tried = fuzz(name, inputs, seed)
    except BaseException:
        return name, 0, time.monotonic() - began, traceback.format_exc()
    return name, tried, time.monotonic() - began, ""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.run", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}")
    parser.add_argument("--inputs", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    arguments = parser.parse_args()
    chosen = arguments.targets or list(TARGETS)
    if unknown := set(chosen) - set(TARGETS):
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    whole = sum(TARGETS[name][2] for name in chosen)
    jobs = []
    for name in chosen:
        # A tenth more: Hypothesis ends early where it has seen all there is.
        count = int(arguments.inputs * 1.1 * TARGETS[name][2] / whole)
        jobs += [(name, RUN, arguments.seed + at) for at in range(0, count, RUN)]
    print(f"{len(jobs)} runs of {RUN} inputs, --seed {arguments.seed}", flush=True)
    began = time.monotonic()
    tried = dict.fromkeys(chosen, 0)
    failed: dict[str, str] = {}
    spawn = multiprocessing.get_context("spawn")
    with spawn.Pool(len(os.sched_getaffinity(0)), _limit) as pool:
        for done, (name, count, _, trace) in enumerate(pool.imap_unordered(_run, jobs), 1):
            tried[name] += count
            if trace and name not in failed:
                failed[name] = trace
                print(f"FAIL {name}\n{trace}", flush=True)
            if done % 10 == 0:
                seconds = time.monotonic() - began
                print(f"  {sum(tried.values())} inputs in {seconds:.0f} s", flush=True)
    for name in chosen:
        print(f"{'FAIL' if name in failed else 'ok  '} {name}: {tried[name]} inputs")
    print(f"{sum(tried.values())} inputs in {time.monotonic() - began:.0f} s")
    return bool(failed) or sum(tried.values()) < arguments.inputs


if __name__ == "__main__":
    sys.exit(main())
