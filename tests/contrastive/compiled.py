"""The room with its losses compiled, each call as one program; see `tests.whole`.

Tests of what is told of bad values, which a program cannot know, use the room as it is.
"""

from typing import Any

from jaxrobust import contrastive
from jaxrobust.contrastive import *  # noqa: F403
from tests.whole import compiled

hard_negative_nce: Any = compiled(contrastive.hard_negative_nce)
hinge_loss: Any = compiled(contrastive.hinge_loss)
info_nce: Any = compiled(contrastive.info_nce)
memory_push: Any = compiled(contrastive.memory_push)
multi_positive: Any = compiled(contrastive.multi_positive)
sigmoid_loss: Any = compiled(contrastive.sigmoid_loss)
sup_con: Any = compiled(contrastive.sup_con)
triplet_loss: Any = compiled(contrastive.triplet_loss)
