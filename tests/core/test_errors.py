"""A slip of the keyboard is answered with the name that was meant, and anything else with the names there are."""

import pytest

from kdlab.core.errors import nearest


@pytest.mark.parametrize(
    ("given", "known", "advice"),
    [
        ("temprature", ["alpha", "temperature"], "; did you mean temperature?"),
        ("mobilnet", {"mobilenet": 1, "resnet8": 2}, "; did you mean mobilenet?"),
        ("qwertz", ["temperature", "alpha"], "; available: alpha, temperature"),
        ("alpha", [], ""),
    ],
)
def test_the_nearest_name_is_proposed_or_all_that_there_are(given, known, advice):
    assert nearest(given, known) == advice
