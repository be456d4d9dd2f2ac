"""Which negatives of an anchor count, and how much: the mining of :func:`hinge_loss`."""

import dataclasses
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax.core import Tracer

from jaxrobust import trees
from jaxrobust.contrastive import _picks as picks
from jaxrobust.contrastive import _statistics as statistics
from jaxrobust.contrastive._checks import check_range
from jaxrobust.contrastive._passes import Statistics

# Up to so many picked negatives are looked at one by one; more, through the matrix of scores.
_FEW = 8


class Anchors(NamedTuple):
    """What the loss of an anchor is made of."""

    positive_scores: jax.Array  # (n,)
    sums: tuple[Any, ...]  # values of the statistics
    scores: tuple[jax.Array, ...]  # (n, k) each: s of what was picked
    slacks: tuple[jax.Array, ...]  # (n, k) each: alpha + s - d of what was picked
    there: tuple[jax.Array, ...]  # (n, k) bool each: whether there was something to pick
    smooth: bool  # softplus for hinges


class Mining(Protocol):
    """A way to mine: what it needs to know of the scores of an anchor, and the loss from it."""

    def sums(self) -> Statistics:
        """Statistics whose values are differentiated through the matrix of scores."""
        ...

    def picks(self, dim: int) -> Statistics:
        """Picked candidates, whose scores are formed again; ``dim`` is that of the embeddings."""
        ...

    def losses(self, anchors: Anchors) -> jax.Array:
        """The loss of every anchor, ``(n,)``."""
        ...


def _register(cls: Any) -> Any:
    return jax.tree_util.register_dataclass(dataclasses.dataclass(frozen=True)(cls))


def _hinges(anchors: Anchors, number: int = 0) -> jax.Array:
    """Hinges of what was picked, ``(n, k)``; 0 where nothing was."""
    there = anchors.there[number]
    # Minus infinity, where there is nothing, has a soft hinge but its slope may be NaN.
    slacks = jnp.where(there, anchors.slacks[number], 0)
    return jnp.where(there, statistics.hinge(slacks, anchors.smooth), 0)


@_register
class All:
    """Every negative: the sum of hinges."""

    def sums(self) -> Statistics:
        """Sum of hinges."""
        return (statistics.HingeSum(),)

    def picks(self, dim: int) -> Statistics:
        """Nothing."""
        return ()

    def losses(self, anchors: Anchors) -> jax.Array:
        """The sum."""
        return anchors.sums[0]


@_register
class Hardest:
    """The hardest negative: the maximum of hinges."""

    def sums(self) -> Statistics:
        """Nothing."""
        return ()

    def picks(self, dim: int) -> Statistics:
        """The hardest."""
        return (picks.Hardest(),)

    def losses(self, anchors: Anchors) -> jax.Array:
        """Its hinge."""
        return _hinges(anchors)[:, 0]


@_register
class TopK:
    """The k hardest negatives: the sum of their hinges."""

    k: Any
    most: int = dataclasses.field(metadata={"static": True})

    def sums(self) -> Statistics:
        """All at once, if they are many or k is traced."""
        if self._few():
            return ()
        return (picks.HardestHinges(self.most, count=self.k),)

    def picks(self, dim: int) -> Statistics:
        """One by one, if they are few."""
        return (picks.Hardest(self.most),) if self._few() else ()

    def losses(self, anchors: Anchors) -> jax.Array:
        """The sum."""
        return jnp.sum(_hinges(anchors), axis=1) if self._few() else anchors.sums[0]

    def _few(self) -> bool:
        return isinstance(self.k, int) and self.k == self.most <= _FEW


@_register
class SemiHard:
    """The hardest negative that is less similar than the positive."""

    easiest: bool = dataclasses.field(metadata={"static": True})

    def sums(self) -> Statistics:
        """Nothing."""
        return ()

    def picks(self, dim: int) -> Statistics:
        """That one; without it the easiest, if wanted."""
        found: Statistics = (picks.SemiHard(),)
        return (*found, picks.Easiest()) if self.easiest else found

    def losses(self, anchors: Anchors) -> jax.Array:
        """Its hinge."""
        first = _hinges(anchors)[:, 0]
        if not self.easiest:
            return first
        return jnp.where(anchors.there[0][:, 0], first, _hinges(anchors, 1)[:, 0])


@_register
class Soft:
    """All negatives, by their softmax."""

    beta: Any

    def sums(self) -> Statistics:
        """Log-sum-exp."""
        return (statistics.LogSumExp(self.beta),)

    def picks(self, dim: int) -> Statistics:
        """Nothing."""
        return ()

    def losses(self, anchors: Anchors) -> jax.Array:
        """The hinge of the soft maximum."""
        there = ~(anchors.sums[0] == -jnp.inf)  # NaN is, and must not be lost
        total = jnp.where(there, anchors.sums[0], 0)
        softest = total / jnp.asarray(self.beta, total.dtype)
        slack = softest - anchors.positive_scores
        return jnp.where(there, statistics.hinge(slack, anchors.smooth), 0)


@_register
class Selective:
    """The mean of hinges for anchors that cannot tell their positive from the hardest negative."""

    epsilon: Any

    def sums(self) -> Statistics:
        """Sum of hinges, and the number of negatives."""
        return (statistics.HingeSum(), statistics.ScoreSum("negatives"))

    def picks(self, dim: int) -> Statistics:
        """The hardest, by its score."""
        return (picks.Hardest(),)

    def losses(self, anchors: Anchors) -> jax.Array:
        """One or the other."""
        gap = jnp.abs(anchors.scores[0][:, 0] - anchors.positive_scores)
        return jnp.where(gap < self.epsilon, _mean(anchors), _hinges(anchors)[:, 0])


@_register
class Mixed:
    """Between all negatives and the hardest."""

    weight: Any
    mean: bool = dataclasses.field(metadata={"static": True})

    def sums(self) -> Statistics:
        """Sum of hinges, and the number of negatives."""
        return (statistics.HingeSum(), statistics.ScoreSum("negatives"))

    def picks(self, dim: int) -> Statistics:
        """The hardest."""
        return (picks.Hardest(),)

    def losses(self, anchors: Anchors) -> jax.Array:
        """The weighted mean of both."""
        every = _mean(anchors) if self.mean else anchors.sums[0]
        # Under x64 the weight of a schedule is float64: the losses are not.
        weight = jnp.asarray(self.weight, every.dtype)
        return (1 - weight) * every + weight * _hinges(anchors)[:, 0]


def _mean(anchors: Anchors) -> jax.Array:
    return anchors.sums[0] / jnp.maximum(jax.lax.stop_gradient(anchors.sums[1][:, 1]), 1)


@_register
class DistanceWeighted:
    """One negative, drawn so that all distances are as likely."""

    key: jax.Array
    cutoff: Any
    limit: Any

    def sums(self) -> Statistics:
        """Nothing."""
        return ()

    def picks(self, dim: int) -> Statistics:
        """The one that is drawn."""
        return (picks.ByDistance(key=self.key, dim=dim, cutoff=self.cutoff, limit=self.limit),)

    def losses(self, anchors: Anchors) -> jax.Array:
        """Its hinge."""
        return _hinges(anchors)[:, 0]


# What users call ----------------------------------------------------------------------------------


def top_k(k: Any, *, most: int | None = None) -> Mining:
    r"""The k hardest negatives: :math:`\sum_{r\le k}[\alpha+s_{(r)}-d]_+`.

    The hardest for k = 1, all for k = B - 1; more than there are is all.

    Args:
      k: how many; an array, for a schedule, needs ``most``. Traced, it is clipped to 0..most.
      most: the largest that k can be, static. Memory and time grow with it.

    Raises:
      ValueError: if k is no integer of at least 1, or is traced without ``most``.
    """
    if most is not None:
        most = trees.check_count("most", most)
    if isinstance(k, Tracer | jax.Array) and not jnp.issubdtype(k.dtype, jnp.integer):
        raise ValueError(f"k must be an integer, got {k.dtype}")
    if not isinstance(k, Tracer):
        number = trees.check_count("k", int(k) if isinstance(k, jax.Array) else k, most=most)
        if not isinstance(k, jax.Array):
            return TopK(number, number if most is None else most)
    if most is None:
        raise ValueError("most must be given if k is an array: the largest that k can be")
    return TopK(k, most)


def soft(beta: Any) -> Mining:
    r"""The soft maximum: :math:`\big[\frac1\beta\log\sum_j e^{\beta(\alpha+s_j)} - d\big]_+`.

    Above the maximum of hinges by at most :math:`\log(B-1)/\beta`, and equal to it for
    :math:`\beta\to\infty`; the gradient is shared among negatives by their softmax.

    Args:
      beta: inverse temperature, above 0; may be traced. It has no gradient.

    Raises:
      ValueError: if it is not above 0, unless traced.
    """
    check_range("beta", beta, 0, None, above=True)
    return Soft(jax.lax.stop_gradient(beta))


def semi_hard(*, otherwise: str = "easiest") -> Mining:
    r"""The hardest negative that is less similar than the positive, :math:`s_j<d`.

    By more than rounding errors: a negative that is the same embedding as the positive is not.

    Args:
      otherwise: what an anchor without such a negative takes: ``"easiest"``, its least similar
        negative, as TensorFlow's loss does, or ``"nothing"``: its loss is 0.

    Raises:
      ValueError: for anything else.

    Source:
      Schroff et al., arXiv:1503.03832, section 3.2.
    """
    if otherwise not in ("easiest", "nothing"):
        raise ValueError(f"otherwise must be 'easiest' or 'nothing', got {otherwise!r}")
    return SemiHard(otherwise == "easiest")


def selective(epsilon: Any = 0.01) -> Mining:
    r"""The hardest negative, but the mean of hinges where :math:`|d-s_{\max}|<\epsilon`.

    There an anchor does not tell its positive from its hardest negative, that with the largest
    margin plus score, and the gradient of the maximum nearly vanishes: in the beginning, or after a
    collapse.

    Args:
      epsilon: 0 or more; may be traced.

    Source:
      Selective hard negatives (RVSE++), arXiv:2303.00181.
    """
    check_range("epsilon", epsilon, 0, None)
    return Selective(epsilon)


def mixed(weight: Any, *, mean: bool = True) -> Mining:
    r"""Between all negatives and the hardest.

    .. math:: (1-\lambda)\,\overline{[\cdot]_+} + \lambda \max[\cdot]_+

    Args:
      weight: :math:`\lambda` in [0, 1]; may be traced, for a schedule.
      mean: whether all negatives enter by the mean of their hinges, of the size of one; otherwise
        by the sum, as in the loss with ``"all"``.

    Raises:
      ValueError: for a weight that is not in [0, 1], unless traced.
    """
    check_range("weight", weight, 0, 1)
    return Mixed(weight, bool(mean))


def distance_weighted(key: jax.Array, *, cutoff: Any = 0.5, limit: Any = 1.4) -> Mining:
    r"""A random negative for every anchor, so that all distances are about as likely.

    Drawn in proportion to :math:`1/q(\max(\delta,\mathrm{cutoff}))`, with q the density of
    distances of random points on the sphere, among negatives closer than ``limit``. For cosine
    similarity alone. An x and the y of the same pair draw by the same noise.

    Args:
      key: PRNG key, a new one for every step.
      cutoff: smallest distance that is told apart, so that noise does not decide.
      limit: negatives further away are not drawn; an anchor without closer ones has loss 0.

    Source:
      Wu et al., arXiv:1706.07567, Eq. 4 and section 4; the numbers: their code.
    """
    check_range("cutoff", cutoff, 0, None, above=True)
    check_range("limit", limit, 0, None, above=True)
    return DistanceWeighted(key, cutoff, limit)


NAMED: dict[str, Mining] = {"all": All(), "hardest": Hardest(), "semi_hard": SemiHard(True)}


def mining_of(given: Any) -> Mining:
    """What the user means: a name, or one of the objects above."""
    if isinstance(given, str) and given in NAMED:
        return NAMED[given]
    if not isinstance(given, str) and all(
        hasattr(given, name) for name in ("sums", "picks", "losses")
    ):
        return given
    raise ValueError(
        f"mining must be one of {sorted(NAMED)}, or top_k(k), soft(beta), semi_hard(...), "
        f"selective(...), mixed(...) or distance_weighted(key); got {given!r}"
    )
