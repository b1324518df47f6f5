from align.numbers import clock, number


def test_number():
    shown = [number(v) for v in (0.0, 0.12345, 12.345, 123.45, 12345.6, 3e-5, 2e9, None, float("nan"))]
    assert shown == ["0.000", "0.123", "12.35", "123.5", "12346", "3.0e-05", "2.0e+09", "-", "-"]
    assert [number(v, signed=True) for v in (-0.5, 0.25, 0.0)] == ["-0.500", "+0.250", "+0.000"]


def test_clock():
    assert [clock(s) for s in (0, 59.6, 75, 3700)] == ["0:00", "1:00", "1:15", "1:01:40"]
