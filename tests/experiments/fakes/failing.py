"""What happens when a claim that should hold does not?"""

import dataclasses

from experiments import silent
from experiments.claims import Claim
from experiments.report import Result


@dataclasses.dataclass(frozen=True)
class Config:
    """The number to measure."""

    seed: int = 0
    value: float = 0.5


def run(config, progress=silent):
    return Result(claims=[Claim.at_least("Fake 2022", "The value is one", config.value, 1.0)])
