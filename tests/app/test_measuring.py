"""What a project will take is found from its first steps, and said in words."""

import pytest

from app import figures
from app.given import pictures_of
from app.measuring import Measured, measure
from pipelines import UserError

FITS = Measured(600.0, 3_000_000_000, 8_000_000_000, 40_000_000, 9_000_000_000, "the CPU")


def test_what_a_project_takes_is_measured_and_nothing_stays(library, config):
    library.folder.mkdir()
    pictures = {name: pictures_of(one) for name, one in config.concepts.items()}
    *waited, found = measure(library, config, pictures)
    assert waited == sorted(waited) and found.fits and found.seconds > 0
    assert 1e8 < found.memory < found.has_memory and 0 < found.disk < found.free_disk
    assert [*library.folder.iterdir()] == []
    config.base = "no/such/base/here"
    with pytest.raises(UserError, match=r"did not come to their end: .*no/such/base/here"):
        [*measure(library, config, pictures)]


@pytest.mark.parametrize(
    "change, said",
    [
        ({}, "About 10 min on the CPU; 3.0 GB of memory, of 8.0 GB; 40 MB of disk, of 9.0 GB that are free."),
        ({"memory": 9_000_000_000}, "free. Choose less memory above, or a smaller base."),
        ({"disk": 10_000_000_000}, "free. Make room on the disk first."),
    ],
)
def test_what_does_not_fit_is_said_with_what_to_do(change, said):
    found = Measured(**vars(FITS) | change)
    assert figures.taken(found).endswith(said) and found.fits == (not change)
