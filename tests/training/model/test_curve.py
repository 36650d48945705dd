"""Learning curves as files."""

from training.model.curve import Epoch, load_curve, save_curve


def test_a_curve_comes_back_as_it_was_saved(tmp_path):
    curve = [Epoch(0, 3.5, 0.1, 2.0), Epoch(1, 2.5, 0.12345678901234567, 1.75)]

    save_curve(tmp_path / "curve.json", curve)

    assert load_curve(tmp_path / "curve.json") == curve
