"""The transcripts that a run's page shows, with their errors by words, or by characters where there are no spaces."""

import pytest

from launch.report.run_page import spoken_samples
from launch.report.run_page.run_record import Spoken


@pytest.mark.parametrize(
    ("reference", "hypothesis", "errors", "size", "unit", "marks"),
    [
        ("今天天气很好", "今天气很号", 2, 6, "characters", "DS"),
        ("明天早上八点", "明天早上八点", 0, 6, "characters", ""),
        ("FIFTY ONE", "FIFTY WON TO", 2, 2, "words", "SI"),
        ("STOP", "STOPS", 1, 1, "words", "S"),
        ("", "STOP", 1, 0, "words", "I"),
    ],
)
def test_errors_are_of_words_or_of_characters_where_a_script_has_no_spaces(
    reference, hypothesis, errors, size, unit, marks
):
    (sample,) = spoken_samples.samples([Spoken("val", "a.wav", reference, hypothesis)])
    assert sample.counted == (errors, size, unit)
    assert "".join(column.mark for column in sample.columns) == marks
