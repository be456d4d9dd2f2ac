"""`python -m experiments.benchmarks [--quick] [name ...]`: prints all tables, or those named."""

import argparse
import importlib
import sys

from experiments import keep_blas_to_one_thread

NAMES = ("geometry_table", "max_margin", "per_example", "contrastive", "attacks", "gated")


def main() -> int:
    """Runs the benchmarks; status 1 if a bar was missed."""
    parser = argparse.ArgumentParser(prog="python -m experiments.benchmarks", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="name", help=f"which: {', '.join(NAMES)} (default: all)"
    )
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that they run")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.names if name not in NAMES]
    if unknown:
        parser.error(f"name: no benchmark {unknown[0]!r}; there are {', '.join(NAMES)}")
    keep_blas_to_one_thread()
    timing = importlib.import_module("experiments.benchmarks.timing")  # imports JAX
    print(timing.machine())
    missed = []
    for name in arguments.names or NAMES:
        print(f"\n== {name} ==")
        missed += importlib.import_module(f"experiments.benchmarks.{name}").main(arguments.quick)
    for line in missed:
        print(f"MISSED: {line}")
    print("\nall bars met" if not missed else "\nsome bars missed")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
