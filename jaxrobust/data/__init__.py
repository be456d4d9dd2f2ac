"""Arrays in, arrays out: embedded sets, sets from files or tensorflow-datasets, batches of indices.

Every loader returns a :class:`Dataset`: four arrays in memory and an :class:`Info`. Nothing is
downloaded, and a set that is not there is an error, never replaced by synthetic data.

==========================  ==========================================  ===========================
set                         rows (train + test), features, labels       needs
==========================  ==========================================  ===========================
``logistic_gaussian``       any, generated, -1/+1                       nothing
``digits``                  1797 (split as asked), 64, 10 classes       scikit-learn
``breast_cancer``           569 (split as asked), 30, -1/+1             scikit-learn
``khan``                    63 + 20, 2308, 4 classes                    files
``mnist``                   60000 + 10000, 28x28x1, 10 classes          files, or prepared TFDS set
``cifar10``                 50000 + 10000, 32x32x3, 10 classes          files, or prepared TFDS set
``wikipedia``               2173 + 693 pairs of image and text          files
``multi30k``                29000 + 1014 + 1000 times some captions     files
==========================  ==========================================  ===========================

The last two are no labelled examples, and have types of their own: :class:`Pairs`,
:class:`Captions`.

Your own arrays become a data set by :func:`from_arrays`. Files are looked for in the folder given
as ``path``, else in the folder named by the environment variable ``JAXROBUST_DATA``.
"""

from jaxrobust.data._batches import EpochBatches, batches, epoch_batches
from jaxrobust.data._captions import Captions, multi30k
from jaxrobust.data._dataset import Dataset, Info, from_arrays
from jaxrobust.data._embedded import breast_cancer, digits
from jaxrobust.data._golden import logistic_gaussian
from jaxrobust.data._images import cifar10, mnist
from jaxrobust.data._khan import khan
from jaxrobust.data._pairs import Pairs, wikipedia
from jaxrobust.data._transform import flatten, images, one_vs_rest, pair, standardize, subset

__all__ = [
    "Captions",
    "Dataset",
    "EpochBatches",
    "Info",
    "Pairs",
    "batches",
    "breast_cancer",
    "cifar10",
    "digits",
    "epoch_batches",
    "flatten",
    "from_arrays",
    "images",
    "khan",
    "logistic_gaussian",
    "mnist",
    "multi30k",
    "one_vs_rest",
    "pair",
    "standardize",
    "subset",
    "wikipedia",
]
