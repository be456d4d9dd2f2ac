"""What happens when a data set is missing?"""

import dataclasses

from experiments import silent
from experiments.report import Result

TOUR = False


@dataclasses.dataclass(frozen=True)
class Config:
    """Whether the missing data are needed."""

    seed: int = 0
    needed: bool = False

    def check(self):
        if self.needed:
            raise FileNotFoundError("needed: the data are not here")


PRESETS = {"big": Config(needed=True)}


def run(config, progress=silent):
    return Result(summary="Nothing was needed.")
