"""What learns: one file a method, each with all that follows from choosing it, and the one list of them."""

from training.adapters.adapter import Adapter
from training.adapters.full import FullWeights
from training.adapters.plp import PartlyLearnable

METHODS: dict[str, type[Adapter]] = {kind.name: kind for kind in (PartlyLearnable, FullWeights)}
DEFAULT_METHOD = PartlyLearnable.name  # where a project file names none


def method_of(name: object) -> type[Adapter]:
    """The method of a name; the default for what is none, which the configuration refuses by itself."""
    return METHODS[name if isinstance(name, str) and name in METHODS else DEFAULT_METHOD]
