"""Groups of points, or of examples whose gradients point the same way.

:func:`fit` clusters any points; the objective ``"pairwise"`` is the variance of an estimator that
draws one example of each cluster. :func:`gradient_clusters` does so with gradients.
"""

from jaxrobust.clustering._fit import Clustering, fit, objective
from jaxrobust.clustering._gradients import gradient_clusters

__all__ = ["Clustering", "fit", "gradient_clusters", "objective"]
