"""What is made anew after the base's weights can be made."""

from importlib.util import find_spec

from benchmarks.optimizers.quality import EVERYONE
from benchmarks.refresh import STEPS


def test_every_step_is_a_command_that_there_is():
    for module, *arguments in STEPS:
        assert find_spec(module), module
        if "--only" in arguments:
            assert set(arguments[arguments.index("--only") + 1 :]) <= EVERYONE.keys()
