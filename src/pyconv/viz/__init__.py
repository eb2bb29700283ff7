"""Pictures of layers, networks and results, drawn with matplotlib (extra ``[viz]``).

Every function returns a matplotlib ``Figure``; none opens a window or touches pyplot.
"""

from .confusion import confusion_matrix
from .curves import training_curves
from .fields import effective_receptive_field, receptive_field
from .pyramids import pyramid
from .responses import responses
from .sheet import predictions
from .zoo import accuracy_against_cost

__all__ = [
    "accuracy_against_cost",
    "confusion_matrix",
    "effective_receptive_field",
    "predictions",
    "pyramid",
    "receptive_field",
    "responses",
    "training_curves",
]
