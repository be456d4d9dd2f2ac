"""Groups of points, or of examples whose gradients point the same way.

:func:`fit` clusters any points; the objective ``"pairwise"`` is the variance of an estimator that
draws one example of each cluster.
"""

from jaxrobust.clustering._fit import Clustering, fit, objective

__all__ = ["Clustering", "fit", "objective"]
