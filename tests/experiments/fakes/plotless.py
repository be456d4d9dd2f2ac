"""What is kept when the plot raises?"""

import dataclasses

from experiments import silent
from experiments.claims import Claim
from experiments.report import Result


@dataclasses.dataclass(frozen=True)
class Config:
    """Nothing to set."""

    seed: int = 7


def run(config, progress=silent):
    claims = [Claim.close("Fake 2023", "One is one", 1.0, 1.0)]
    return Result(claims=claims, series={"ones": [1.0, 1.0]})


def plot(result):
    raise ZeroDivisionError("no picture")
