"""What an experiment found: `Result` and `Table`, their files, and the page that shows them.

A run is a folder with one JSON file and some PNG files per experiment and `run.json`. The page
`report.html` is made from those files alone: `python -m experiments report results/<run>`.
"""

from experiments.report.render import read_run, write
from experiments.report.result import Result, Table

__all__ = ["Result", "Table", "read_run", "write"]
