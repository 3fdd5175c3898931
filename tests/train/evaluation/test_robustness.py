import numpy as np
import pytest

from clipsearch_train.evaluation.robustness import Trend, inverse_logit, logit


def test_logits() -> None:
    assert logit([50.0, 90.0]) == pytest.approx([0, np.log(9)])
    assert inverse_logit(logit([12.0, 88.0])) == pytest.approx([12.0, 88.0])
    assert np.isfinite(logit([0.0, 100.0])).all()


def test_a_trend_is_a_line_on_logit_axes() -> None:
    original = np.array([30.0, 50.0, 70.0])
    shifted = inverse_logit(0.8 * logit(original) - 0.5)
    trend = Trend.fit(original.tolist(), shifted.tolist())
    assert (trend.slope, trend.offset) == pytest.approx((0.8, -0.5))
    expected = float(trend.expected(60.0))
    assert expected == pytest.approx(float(inverse_logit(0.8 * logit(60.0) - 0.5)))
    # Better on both is not effectively robust; above the line is.
    assert trend.effective(60.0, expected) == pytest.approx(0)
    assert trend.effective(60.0, expected + 7) == pytest.approx(7)


def test_one_model_makes_no_trend() -> None:
    for original, shifted in (([50.0], [40.0]), ([50.0, 50.0], [40.0, 30.0])):
        with pytest.raises(ValueError, match="two models of different accuracy"):
            Trend.fit(original, shifted)
