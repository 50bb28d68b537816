"""Numbers as people read them in a terminal: plain ASCII, a dash for what is not known."""

import math

MISSING = "-"
YEAR_SECONDS = 365.25 * 86_400


def count(value: float | None) -> str:
    """232k, 4.64M; exact below a thousand."""
    if value is None:
        return MISSING
    if abs(value) < 999.5:
        return f"{value:.3g}"
    for suffix, scale in {"k": 1e3, "M": 1e6, "B": 1e9}.items():
        if abs(value) < 999.5 * scale:
            return digits(value / scale) + suffix
    return digits(value / 1e12) + "T"


def digits(value: float) -> str:
    """Three significant digits, the zeros at the end kept: 9.20, 66.1, 118."""
    if not value:
        return "0"
    shown = float(f"{value:.3g}")
    return f"{shown:,.{max(0, 2 - math.floor(math.log10(abs(shown))))}f}"


def scientific(value: float | None, decimals: int = 2) -> str:
    """6.40e12"""
    if value is None:
        return MISSING
    mantissa, exponent = f"{value:.{decimals}e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def loss(value: float | None) -> str:
    """Three decimals: seeds differ in the second or third."""
    return MISSING if value is None else f"{value:.3f}"


def percent(share: float | None, decimals: int = 0) -> str:
    """62 %"""
    return MISSING if share is None or not math.isfinite(share) else f"{100 * share:.{decimals}f} %"


def duration(seconds: float | None) -> str:
    """1 min 20 s; the two largest units. From 100 days on 271 d, from two years on 7,930 years."""
    if seconds is None or not math.isfinite(seconds):
        return MISSING
    if seconds >= 2 * YEAR_SECONDS:
        return f"{digits(seconds / YEAR_SECONDS)} years"
    if seconds >= 100 * 86_400:
        return f"{round(seconds / 86_400)} d"
    whole = round(seconds)
    parts = {"d": whole // 86_400, "h": whole // 3600 % 24, "min": whole // 60 % 60, "s": whole % 60}
    told = [f"{value} {unit}" for unit, value in parts.items() if value]
    return " ".join(told[:2]) or ("0 s" if seconds == 0 else f"{seconds:.1g} s")


def size(n_bytes: float | None) -> str:
    """30.9 MB"""
    if n_bytes is None:
        return MISSING
    for unit, scale in {"kB": 1e3, "MB": 1e6, "GB": 1e9}.items():
        if n_bytes < 999.5 * scale:
            return f"{digits(n_bytes / scale)} {unit}"
    return f"{digits(n_bytes / 1e12)} TB"


def energy(joules: float | None) -> str:
    """1.20 Wh"""
    if joules is None:
        return MISSING
    for unit, scale in {"Wh": 3600.0, "kWh": 3.6e6}.items():
        if joules < 999.5 * scale:
            return f"{digits(joules / scale)} {unit}"
    return f"{digits(joules / 3.6e9)} MWh"


def price(value: float | None) -> str:
    """12.30; hundredths of a cent below one."""
    if value is None:
        return MISSING
    return f"{value:,.2f}" if value >= 1 or not value else f"{value:.4f}"
