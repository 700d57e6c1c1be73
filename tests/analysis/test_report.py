"""The report's words, by hand."""

import pytest

from midstate.analysis.report import elsewhere


@pytest.mark.parametrize(
    ("judged", "words"),
    [
        ([], "not run"),
        ([("supported", 1.234)], "supported in 1 of 1 (+1.23)"),
        (
            [("inconclusive", 0.5), ("supported", 3), ("supported", 1), ("refuted", -2)],
            "supported in 2 of 4 (+1.00 to +3.00), inconclusive in 1 of 4 (+0.50), refuted in 1 of 4 (-2.00)",
        ),
    ],
)
def test_what_was_found_elsewhere_in_a_few_words(judged, words):
    assert elsewhere(judged) == words
