"""`python -m experiments`."""

import io
import sys

from experiments import keep_blas_to_one_thread
from experiments.cli import main

if __name__ == "__main__":
    keep_blas_to_one_thread()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a screen may lack the sign for "does not hold"
            stream.reconfigure(errors="replace")
    sys.exit(main(sys.argv[1:]))
