from __future__ import annotations

import math

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from clipsearch.errors import UsageError
from clipsearch.search.query import Query, Term

PICTURES = {"photo.jpg", "my photo.jpg", "./x/y.png", "/a b/c.webp", 'odd "name".png'}


def parse(text):
    return Query.parse(text, is_image=PICTURES.__contains__)


def terms(text):
    return [(term.weight, term.kind[0], term.value) for term in parse(text).terms]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("a dog on a beach", [(1, "t", "a dog on a beach")]),
        ("  a dog  ", [(1, "t", "a dog")]),
        ('"horse" + "stripes" - "grass"', [(1, "t", "horse"), (1, "t", "stripes"), (-1, "t", "grass")]),
        ("horse + stripes - grass", [(1, "t", "horse"), (1, "t", "stripes"), (-1, "t", "grass")]),
        ("horse + stripes", [(1, "t", "horse"), (1, "t", "stripes")]),
        ("- fruit", [(-1, "t", "fruit")]),
        ('- "a b" - c', [(-1, "t", "a b"), (-1, "t", "c")]),
        ("+ fruit", [(1, "t", "fruit")]),
        ("2:dog", [(2, "t", "dog")]),
        ("1.5:beach + .5: sea", [(1.5, "t", "beach"), (0.5, "t", "sea")]),
        ('1.5:"beach" - 2:"sand"', [(1.5, "t", "beach"), (-2, "t", "sand")]),
        ("-2:dog - -3:cat", [(-2, "t", "dog"), (3, "t", "cat")]),
        ("1e-1:dog", [(0.1, "t", "dog")]),
        ("a t-shirt", [(1, "t", "a t-shirt")]),
        ("-5 degrees", [(1, "t", "-5 degrees")]),
        ("c++ book", [(1, "t", "c++ book")]),
        ("a+b -c", [(1, "t", "a+b -c")]),
        ("16:9 photo", [(1, "t", "16:9 photo")]),
        ("a clock at 12:30 + 3:sky", [(1, "t", "a clock at 12:30"), (3, "t", "sky")]),
        ('2:"9 lives"', [(2, "t", "9 lives")]),
        ('"stop + go - on"', [(1, "t", "stop + go - on")]),
        ('a sign "stop + go" - car', [(1, "t", 'a sign "stop + go"'), (-1, "t", "car")]),
        ('"stop" sign', [(1, "t", '"stop" sign')]),
        ('a 5" nail + wood', [(1, "t", 'a 5" nail'), (1, "t", "wood")]),
        (r'"say \"hi\" \\ \n"', [(1, "t", r'say "hi" \ \n')]),
        ("photo.jpg", [(1, "i", "photo.jpg")]),
        ("./x/y.png - photo.jpg", [(1, "i", "./x/y.png"), (-1, "i", "photo.jpg")]),
        ('"my photo.jpg" + "at night"', [(1, "i", "my photo.jpg"), (1, "t", "at night")]),
        ("my photo.jpg + at night", [(1, "i", "my photo.jpg"), (1, "t", "at night")]),
        ("2:photo.jpg", [(2, "i", "photo.jpg")]),
        (r'"odd \"name\".png"', [(1, "i", 'odd "name".png')]),
        ("missing.jpg", [(1, "t", "missing.jpg")]),
        ('"/not/there.jpg"', [(1, "t", "/not/there.jpg")]),
        ('a"b NEAR( * tag:x', [(1, "t", 'a"b NEAR( * tag:x')]),
        ("狗 + пляж", [(1, "t", "狗"), (1, "t", "пляж")]),
        ("a\t+\nb", [(1, "t", "a"), (1, "t", "b")]),
    ],
)
def test_lines_and_their_terms(line, expected):
    assert terms(line) == expected


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("", "empty"),
        ("  \n ", "empty"),
        ("+", "missing"),
        ("-", "missing"),
        ("horse +", "missing"),
        ("horse + - grass", "missing"),
        ("+ + horse", "missing"),
        ('""', "empty"),
        ('" "', "empty"),
        ('"horse', "never closed"),
        ('horse + "stripes', "never closed"),
        ('2:"horse', "never closed"),
        (r'"horse\"', "never closed"),
        ("0:dog", "weight"),
        ("-0.0:dog", "weight"),
        ("nan:dog", "weight"),
        ("-inf:dog", "weight"),
        ("1e999:dog", "weight"),
        ("1e-999:dog", "weight"),
        ("/not/there.jpg", "no picture"),
        ("./no.PNG + dog", "no picture"),
        ("caf\udce9", "UTF-8"),
        pytest.param(" + ".join(["dog"] * 101), "at most 100 terms", id="101 terms"),
        pytest.param(" + ".join(["dog"] * 30_000), "at most 100,000 characters", id="30,000 terms"),
        pytest.param("9" * 90_000 + ":dog", "weight", id="a weight of 90,000 digits"),
    ],
)
def test_lines_that_cannot_be_understood(line, complaint):
    with pytest.raises(UsageError, match=complaint):
        parse(line)


def test_the_caret_stands_under_the_quote():
    with pytest.raises(UsageError) as raised:
        parse('horse + "stripes')
    _, line, caret = str(raised.value).split("\n")
    assert line[caret.index("^")] == '"'


def test_of_a_long_line_what_is_about_the_mistake_is_shown():
    with pytest.raises(UsageError) as raised:
        parse("dog " * 10_000 + '+ "stripes' + " cat" * 10_000)
    _, line, caret = str(raised.value).split("\n")
    assert line[caret.index("^")] == '"'
    assert len(line) < 200


def test_a_sum_of_a_hundred_terms_is_the_longest():
    longest = parse(" + ".join(["dog"] * 100))
    with pytest.raises(UsageError, match="100 terms"):
        _ = longest + Query.text("cat")


def test_texts_have_a_hundred_thousand_characters_together():
    half = Query.text("x" * 50_000)
    assert len((half + half + Query.image("photo.jpg")).terms) == 3
    for too_long in (lambda: half + half + Query.text("y"), lambda: Query.text("x" * 100_001)):
        with pytest.raises(UsageError, match="at most 100,000 characters, not 100,001"):
            too_long()


@pytest.mark.parametrize("line", ["horse +", "horse - + grass"])
def test_the_caret_stands_under_the_sign(line):
    with pytest.raises(UsageError) as raised:
        parse(line)
    _, shown, caret = str(raised.value).split("\n")
    assert shown[caret.index("^")] in "+-"


@pytest.mark.parametrize("error", [OSError(36, "name too long"), ValueError("embedded null byte")])
def test_a_name_that_the_system_refuses_is_text(error):
    def is_image(value):
        raise error

    assert Query.parse("x\0y", is_image=is_image).terms[0].kind == "text"


def test_put_together_in_python():
    query = Query.text("horse") + Query.text("stripes") - 0.5 * Query.text("grass")
    assert query == parse("horse + stripes - 0.5:grass")
    assert 2 * (Query.image("photo.jpg") - Query.text("x")) * 3 == Query(
        (Term(6.0, "image", "photo.jpg"), Term(-6.0, "text", "x"))
    )
    assert -Query.text("fruit") == parse("- fruit")


def test_what_python_refuses():
    with pytest.raises(UsageError):
        Query(())
    with pytest.raises(UsageError):
        0 * Query.text("x")
    with pytest.raises(UsageError):
        math.nan * Query.text("x")
    with pytest.raises(UsageError):
        Query.text("  ")
    with pytest.raises(UsageError):
        Term(1.0, "sound", "x")
    with pytest.raises(TypeError):
        Query.text("x") + "y"
    with pytest.raises(TypeError):
        "2" * Query.text("x")


def test_written_in_its_own_language():
    assert str(parse("horse + 2:stripes - grass")) == '"horse" + 2.0:"stripes" - "grass"'
    assert str(parse('- say "hi" \\')) == r'- "say \"hi\" \\"'


values = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)
weights = st.floats(allow_nan=False, allow_infinity=False).filter(bool)
some_terms = st.one_of(
    st.builds(Term, weights, st.just("text"), values.filter(lambda value: value not in PICTURES)),
    st.builds(Term, weights, st.just("image"), st.sampled_from(sorted(PICTURES))),
)


@given(st.lists(some_terms, min_size=1, max_size=5).map(lambda found: Query(tuple(found))))
def test_reads_back_as_written(query):
    assert parse(str(query)) == query


SPELLING = st.lists(
    st.sampled_from(['"', "\\", "+", "-", " ", ":", "1", ".", "e", "nan", "photo.jpg", "/", "~", "\n", "x"]),
    max_size=25,
).map("".join)


@settings(max_examples=400)
@given(st.one_of(SPELLING, st.text()))
@example('2:"')
@example("-\u00a0x")
@example("1:\n")
def test_any_line_is_a_query_or_a_usage_error(line):
    try:
        query = parse(line)
    except UsageError:
        return
    assert query.terms
    assert parse(str(query)) == query
