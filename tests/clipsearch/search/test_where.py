from __future__ import annotations

import contextlib
import math
from datetime import UTC, date, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipsearch.errors import UsageError
from clipsearch.search.where import Where, parse_date
from clipsearch.store.rows import SlotFilter


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2024", date(2024, 1, 1)),
        ("2024-05", date(2024, 5, 1)),
        ("2024-5-3", date(2024, 5, 3)),
        (" 2024-02-29 ", date(2024, 2, 29)),
        ("2024-05-01T18:30", datetime(2024, 5, 1, 18, 30)),
        ("2024-05-01 18:30:59", datetime(2024, 5, 1, 18, 30, 59)),
    ],
)
def test_dates(text, expected):
    assert parse_date(text) == expected
    assert type(parse_date(text)) is type(expected)


@pytest.mark.parametrize(
    "text",
    ["", "may", "24", "2024-13", "2023-02-29", "2024-05-01T25:00", "2024-05-", "0000", "٢٠٢٤", "20245"],
)
def test_what_is_no_date(text):
    with pytest.raises(UsageError, match="no date"):
        parse_date(text)


@given(st.text())
def test_any_text_is_a_date_or_a_usage_error(text):
    with contextlib.suppress(UsageError):
        assert isinstance(parse_date(text), date)


def test_as_the_catalog_understands_it():
    where = Where(under=(b"/photos",), after=date(2024, 1, 1), before=datetime(2024, 5, 1, 12), min_score=0.2)
    assert where.slot_filter() == SlotFilter(
        under=(b"/photos",), after="2024-01-01", before="2024-05-01T12:00:00"
    )
    assert Where(min_score=0.5).slot_filter().is_empty()
    rest = {
        "has_gps": True,
        "box": (1.0, 170.0, 2.0, -170.0),
        "camera": "x",
        "formats": ("PNG",),
        "text": "_%",
    }
    assert Where(**rest).slot_filter() == SlotFilter(**rest)


@pytest.mark.parametrize(
    "fields",
    [
        {"under": (b"relative",)},
        {"under": (b"/",) * 201},
        {"after": date(2024, 5, 1), "before": date(2024, 5, 1)},
        {"after": datetime(2024, 5, 1, 12), "before": date(2024, 5, 1)},
        {"after": datetime(2024, 5, 1, tzinfo=UTC)},
        {"min_score": 1.5},
        {"min_score": math.nan},
        {"box": (2.0, 0.0, 1.0, 0.0)},
        {"box": (0.0, 0.0, 91.0, 0.0)},
        {"box": (0.0, 181.0, 1.0, 0.0)},
        {"box": (0.0, math.nan, 1.0, 0.0)},
    ],
)
def test_filters_that_nothing_fulfils_are_refused(fields):
    with pytest.raises(UsageError):
        Where(**fields)
