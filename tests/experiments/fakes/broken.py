"""What happens when an experiment raises?"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Config:
    """Nothing to set."""

    seed: int = 0


def run(config, progress=None):
    raise RuntimeError("the experiment <broke> here")
