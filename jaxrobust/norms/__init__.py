r"""Norms as objects: value, dual, direction of steepest ascent, projection, proximal operator.

===================  ==============================  ==================  ===========================
norm                 value                           dual                ``lmo(g)``: steepest ascent
===================  ==============================  ==================  ===========================
:data:`l1`           sum of moduli                   ``linf``            largest coordinate alone
:data:`l2`           root of the sum of squares      ``l2``              ``g / ||g||_2``
:data:`linf`         largest modulus                 ``l1``              ``sign(g)``
:func:`lp`           ``(sum |x|^p)^(1/p)``           ``lp(p/(p-1))``     ``sign(g) |g|^(1/(p-1))``,
                                                                         normalised
:data:`spectral`     largest singular value          ``nuclear``         ``U V^T`` (polar factor)
:data:`nuclear`      sum of singular values          ``spectral``        ``u_1 v_1^T``
``fourier(l1)``      sum of moduli of the spectrum   ``fourier(linf)``   one sinusoid
``fourier(linf)``    largest modulus of the          ``fourier(l1)``     the phase of every
                     spectrum                                            frequency
===================  ==============================  ==================  ===========================

All of them work on arrays and on pytrees (see each norm for what it means there), under ``jit``,
``vmap`` and ``grad``, and on input sharded over Auto and Explicit mesh axes (for singular values,
FFTs and the sort of the l1 projection each device gathers the axes it needs; what comes back is
sharded like the input).
"""

import math

from jaxrobust.norms._bands import FourierBands, fourier_bands, frequencies
from jaxrobust.norms._base import Norm
from jaxrobust.norms._fourier import Fourier, fourier
from jaxrobust.norms._lookup import as_norm, names
from jaxrobust.norms._lp import Lp, lp
from jaxrobust.norms._schatten import Schatten, schatten

__all__ = [
    "Fourier",
    "FourierBands",
    "Lp",
    "Norm",
    "Schatten",
    "as_norm",
    "fourier",
    "fourier_bands",
    "frequencies",
    "l1",
    "l2",
    "linf",
    "lp",
    "names",
    "nuclear",
    "schatten",
    "spectral",
]

l1: Lp = lp(1)
l2: Lp = lp(2)
linf: Lp = lp(math.inf)
spectral: Schatten = schatten(math.inf)
nuclear: Schatten = schatten(1)
