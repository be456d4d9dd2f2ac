"""What `hard_negatives` claims about what is in a batch: how many, and views of one thing."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.claims import Claim
from experiments.hard_negatives_before import FIVE_BEFORE, FIVE_SEEDS_BEFORE
from experiments.hard_negatives_found import (
    AHEAD,
    COPIES,
    FIVE,
    FIVE_VIEWS,
    OWN,
    SIZE,
    SPEC,
    TOLD,
    Found,
    gap,
    named,
    number_in,
    off_by,
    reached,
    surely,
)
from experiments.hard_negatives_runs import ALL, HARDEST, MARGIN, Run, loss_of

SAMPLING = "Faghri et al., arXiv:1707.05612 (sampling argument, as we recall it)"
DERIVED = "our specification, section 2.2 (derived)"


def of_sizes(found: Found) -> Claim:
    sizes = sorted(named(found, SIZE), key=number_in)
    small, large = (
        reached(found[name][HARDEST]) - reached(found[name][ALL]) for name in (sizes[0], sizes[-1])
    )
    return Claim.at_least(
        SAMPLING,
        f"the hardest negative gains with the batch relative to all negatives: difference in rsum "
        f"with {sizes[-1]}, less that with {sizes[0]}, at equal steps, less two standard errors "
        "over seeds",
        surely(large - small),
        AHEAD,
    )


def of_copies(found: Found) -> list[Claim]:
    names = sorted(named(found, COPIES), key=number_in)
    told = TOLD.format(HARDEST)
    few, many = (
        reached(found[name][told]) - reached(found[name][HARDEST]) for name in (names[0], names[-1])
    )
    return [
        Claim.at_least(
            OWN,
            f"with {number_in(names[-1])} views of each thing that are taken for negatives, being "
            f"told matters more for the hardest negative than with {number_in(names[0])} "
            f"(difference of the gains in rsum, less two standard errors over seeds)",
            surely(many - few),
            AHEAD,
        ),
    ]


def of_five(by: dict[str, Run]) -> list[Claim]:
    """The row of duplicates of the specification's table."""
    gains = gains_of(by)
    before = {method: FIVE_BEFORE[TOLD.format(method)] - FIVE_BEFORE[method] for method in gains}
    shown = ", ".join(f"{method} {before[method]:.1f}" for method in gains)
    return [
        Claim.at_most(
            SPEC,
            f"{FIVE}: to be told of them matters as little as before (rsum, told less not told; "
            f"before {shown}; difference in standard errors)",
            [off_by(gains[method], before[method], None, FIVE_SEEDS_BEFORE) for method in gains],
            2.5,
        ),
        Claim.at_most(
            OWN,
            "and by less than to choose the hardest negative costs on digits, 57 (rsum, told less "
            "not told, mean over seeds, at most a tenth of it either way)",
            [abs(gain.mean()) for gain in gains.values()],
            5.7,
        ),
    ]


def of_five_views(by: dict[str, Run]) -> Claim:
    """What does not cancel: copies whose both sides differ."""
    return Claim.at_least(
        OWN,
        f"{FIVE_VIEWS}, where the x differ as well and gradients of copies do not cancel: to be "
        "told is worth something with the hardest and with all negatives (rsum, told less not "
        "told, less two standard errors over seeds)",
        [surely(gain) for gain in gains_of(by).values()],
        AHEAD,
    )


def gains_of(by: dict[str, Run]) -> dict[str, np.ndarray]:
    """``(seeds,)`` by method: rsum told of copies, less not told."""
    return {method: gap(by[TOLD.format(method)], by[method]) for method in (HARDEST, ALL)}


def duplicates() -> list[Claim]:
    """What a copy in the batch costs under all negatives, on random embeddings with five pairs."""
    generator = np.random.default_rng(0)
    unit = lambda z: z / np.linalg.norm(z, axis=1, keepdims=True)
    x, y = (unit(generator.normal(size=(40, 16))) for _ in range(2))
    y = unit(x + y)  # so that many hinges are active
    things = np.arange(40)
    for first in range(0, 10, 2):
        things[first + 1] = first
        x[first + 1] = x[first]
        # Captions of one image are alike, to less than the margin.
        y[first + 1] = unit((y[first] + 0.02 * generator.normal(size=16))[None])[0]
    values = {}
    for told, ids in ((True, things), (False, None)):
        loss = lambda x, y, ids=ids: loss_of(ALL, x, y, ids, jnp.int32(0), 1)
        values[told] = jax.value_and_grad(loss, (0, 1))(jnp.asarray(x), jnp.asarray(y))
    gradients = [values[told][1] for told in (True, False)]
    # Copies have the same x and so its gradients are added.
    merge = lambda g: np.stack([np.asarray(g)[things == thing].sum(0) for thing in set(things)])
    scale = np.abs(merge(gradients[0][0])).max()
    return [
        Claim.close(
            DERIVED,
            "a copy in the batch that nobody tells costs all negatives exactly four margins "
            "(difference of the losses over 4 margins and 5 copies)",
            float(values[False][0] - values[True][0]) / (4 * MARGIN * 5),
            1.0,
            rtol=1e-4,
        ),
        Claim.at_most(
            DERIVED,
            "and no gradient (largest difference, relative; those of the same image added)",
            np.abs(merge(gradients[0][0]) - merge(gradients[1][0])).max() / scale,
            1e-4,
        ),
    ]
