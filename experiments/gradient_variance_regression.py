"""Linear regression with more weights than examples, for the experiment `gradient_variance`."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import gradient_estimators as estimators
from jaxrobust import clustering, sampling

DIM, NUMBER, BATCH = 1_000, 500, 10
LEARNING_RATE = 5e-5
SIGNAL_TO_NOISE = 10.0


class Data(NamedTuple):
    """Of a regression: what there is besides the NUMBER Gaussian points, and the noise."""

    points: int = 0  # more points
    times: int = 0  # that each of them is there
    signal_to_noise: float = (
        SIGNAL_TO_NOISE  # variance of the targets without noise, over the noise
    )

    @property
    def title(self) -> str:
        """How the report calls it."""
        copies = f"{self.points} x {self.times:,} copies" if self.points else "no copies"
        noisier = self.signal_to_noise != SIGNAL_TO_NOISE
        return copies + (f", SNR {self.signal_to_noise:g}" if noisier else "")


# Of the published runs these options are known, and not which one a figure is of.
MOST_COPIED = (5, 1_000)
SETTINGS = (
    *(Data(*copies) for copies in ((0, 0), (5, 100), (10, 100), (100, 100), MOST_COPIED)),
    *(Data(*copies, snr) for copies in ((0, 0), MOST_COPIED) for snr in (5.0, 2.0)),
)
POINTS = 5  # of the trajectory
REFRESH = 1_000  # steps before each, the clusters are made


def make(setting: Data, seed: int = 0) -> tuple[jax.Array, jax.Array]:
    """Gaussian inputs and noisy linear targets: NUMBER, and some more points so many times each."""
    points, times, signal_to_noise = setting
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(NUMBER + points, DIM))
    truth = generator.normal(size=DIM) / np.sqrt(DIM)
    y = x @ truth + generator.normal(size=len(x)) / np.sqrt(signal_to_noise)
    places = np.concatenate([np.arange(NUMBER), NUMBER + np.repeat(np.arange(points), times)])
    return jnp.asarray(x[places], jnp.float32), jnp.asarray(y[places], jnp.float32)


def loss_fn(params: jax.Array, example: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Half the squared error of one example."""
    x, y = example
    return (params @ x - y)[0] ** 2 / 2


@jax.jit
def train(data: tuple[jax.Array, jax.Array], drawn: jax.Array) -> jax.Array:
    """SGD from zero; the weights after every row of `drawn`, ``(rows, steps, BATCH)``."""

    def step(params, index):
        x, y = data[0][index], data[1][index]
        return params - LEARNING_RATE * (params @ x.T - y[None, :]) @ x / BATCH, None

    def interval(params, index):
        params, _ = jax.lax.scan(step, params, index)
        return params, params

    return jax.lax.scan(interval, jnp.zeros((1, DIM)), drawn)[1]


@jax.jit
def gradients(params: jax.Array, data: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Of all examples, ``(N, DIM)``."""
    return jax.vmap(jax.grad(loss_fn), (None, 0))(params, data)[:, 0]


def measure_regression(steps: int, setting: Data) -> dict[str, np.ndarray]:
    """Variance per weight at some steps of one trajectory, by estimator; and those steps."""
    data = make(setting)
    rows = steps // REFRESH
    shape = (rows, REFRESH, BATCH)
    drawn = np.random.default_rng(1).integers(0, len(data[1]), shape, np.int32)
    path = train(data, jnp.asarray(drawn))
    places = np.unique(np.linspace(1, rows - 1, min(POINTS, rows - 1)).round().astype(int))
    found = [measure_point(data, path[at], path[at - 1], jax.random.key(at)) for at in places]
    by_name = {name: np.array([one[name] for one in found]) / DIM for name in found[0]}
    return {"steps": (places + 1) * REFRESH, **by_name}


def measure_point(
    data: tuple[jax.Array, jax.Array], params: jax.Array, before: jax.Array, key: jax.Array
) -> dict[str, float]:
    """Variances at `params`, with clusters and snapshot of the weights `before`."""
    published = clustering.gradient_clusters(
        loss_fn, before, data, BATCH, key=key, method="rank1"
    ).assignments
    now, earlier = gradients(params, data), gradients(before, data)
    best = clustering.fit(earlier, BATCH, key=key).assignments  # as old as the published ones
    m, of_best = (estimators.moments(now, a, BATCH) for a in (published, best))
    uniform = sampling.uniform(len(data[1]), BATCH, replacement=True)
    return {
        **estimators.of_all(m, BATCH),
        estimators.GC: estimators.equal(m, BATCH),
        estimators.HARTIGAN: estimators.equal(of_best, BATCH),
        estimators.SVRG: float(sampling.variance(now - earlier, uniform)),
    }
