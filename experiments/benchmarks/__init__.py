"""Benchmarks, each with its rival in the same run: `python -m experiments.benchmarks`.

Compile time and run time are apart, times are medians, and the machine is named. Read ratios, not
absolute times: they are what another machine can reproduce.
"""
