"""Groups of points, or of examples whose gradients point the same way.

:func:`fit` clusters any points; the objective ``"pairwise"`` is the variance of an estimator that
draws one example of each cluster. :func:`assign` finds the clusters of further points.
:func:`gradient_clusters` clusters by gradients. :func:`online` follows a stream of points.
:func:`duplicates` finds groups of points that coincide; of gradients, given their
:func:`gradient_sketches`.
"""

from jaxrobust.clustering._duplicates import Groups, duplicates
from jaxrobust.clustering._fit import assign, fit, objective
from jaxrobust.clustering._gradient_sketches import gradient_sketches
from jaxrobust.clustering._gradients import gradient_clusters
from jaxrobust.clustering._objectives import Objective
from jaxrobust.clustering._online import Online, OnlineState, online
from jaxrobust.clustering._result import Clustering

__all__ = [
    "Clustering",
    "Groups",
    "Objective",
    "Online",
    "OnlineState",
    "assign",
    "duplicates",
    "fit",
    "gradient_clusters",
    "gradient_sketches",
    "objective",
    "online",
]
