"""Numbers as people read them: the filters of the page. What is missing is a dash."""

import math
import re
from collections.abc import Iterable
from datetime import UTC, datetime

from markupsafe import Markup, escape

MISSING = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"
YEAR_SECONDS = 365.25 * 86_400
TIMES = "\N{MULTIPLICATION SIGN}"
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def count(value: float | None) -> str:
    """9.18M; exact below a thousand."""
    if value is None:
        return MISSING
    if abs(value) < 999.5:
        return f"{value:.3g}"
    for suffix, scale in {"k": 1e3, "M": 1e6, "B": 1e9}.items():
        if abs(value) < 999.5 * scale:
            return digits(value / scale) + suffix
    return digits(value / 1e12) + "T" if abs(value) < 1e15 else scientific(value)


def whole(value: float | None) -> str:
    """12,345"""
    return MISSING if value is None else f"{value:,.0f}"


def digits(value: float | None) -> str:
    """Three significant digits, the zeros at the end kept: 9.20, 66.1, 118, 1,230."""
    if value is None:
        return MISSING
    if not value:
        return "0"
    shown = float(f"{value:.3g}")
    return f"{shown:,.{max(0, 2 - math.floor(math.log10(abs(shown))))}f}"


def scientific(value: float | None) -> str:
    """4.10e15"""
    if value is None:
        return MISSING
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def short_count(value: float) -> str:
    """10k, 2.5M: the label of a tick."""
    told = count(value)
    return re.sub(r"\.?0+(?=\D*$)", "", told) if "." in told else told


def power_of_ten(value: float) -> str:
    """The label of a tick: 10¹⁵, or 2 times that."""
    mantissa, exponent = f"{value:.1e}".split("e")
    power = "10" + str(int(exponent)).translate(SUPERSCRIPTS)
    return power if float(mantissa) == 1 else f"{float(mantissa):g} {TIMES} {power}"


def plain(value: float) -> str:
    """Four significant digits, no zeros at the end: 3.25, 0.1, 10,000."""
    told = f"{value:.4g}"
    return f"{value:,.0f}" if "e" in told and abs(value) < 1e9 else told.replace("-", MINUS)


def bytes_tick(value: float) -> str:
    """10 GB: the label of a tick."""
    return re.sub(r"\.?0+(?=\D*$)", "", told) if "." in (told := size(value)) else told


def ratio(value: float | None) -> str:
    """20, 1.7, 4,258: tokens per parameter."""
    return MISSING if value is None else f"{value:,.0f}" if value >= 9.95 else f"{value:.1f}"


def loss(value: float | None) -> str:
    """Three decimals: seeds differ in the second or third."""
    return MISSING if value is None else f"{value:.3f}"


def percent(value: float | None, decimals: int = 1) -> str:
    """A share as the number of per cent, without the sign."""
    return MISSING if value is None else f"{100 * value:.{decimals}f}".replace("-", MINUS)


def duration(seconds: float | None) -> str:
    """h:mm:ss"""
    if seconds is None:
        return MISSING
    rounded = round(seconds)
    return f"{rounded // 3600:,}:{rounded // 60 % 60:02}:{rounded % 60:02}"


def in_words(seconds: float | None) -> str:
    """4 min 12 s; from 100 days on 271 d, from two years on 7,930 years"""
    if seconds is None:
        return MISSING
    if seconds >= 2 * YEAR_SECONDS:
        return f"{digits(seconds / YEAR_SECONDS)}\N{NO-BREAK SPACE}years"
    if seconds >= 100 * 86_400:
        return f"{round(seconds / 86_400)}\N{NO-BREAK SPACE}d"
    rounded = round(seconds)
    days, hours, minutes = rounded // 86_400, rounded // 3600 % 24, rounded // 60 % 60
    parts = {"d": days, "h": hours, "min": minutes, "s": rounded % 60}
    told = [f"{value}\N{NO-BREAK SPACE}{unit}" for unit, value in parts.items() if value]
    return " ".join(told[:2]) or "0\N{NO-BREAK SPACE}s"


def size(n_bytes: float | None) -> str:
    """30.9 MB"""
    if n_bytes is None:
        return MISSING
    for unit, scale in {"kB": 1e3, "MB": 1e6, "GB": 1e9}.items():
        if n_bytes < 999.5 * scale:
            return f"{digits(n_bytes / scale)}\N{NO-BREAK SPACE}{unit}"
    return f"{digits(n_bytes / 1e12)}\N{NO-BREAK SPACE}TB"


def fixed(value: float | None, decimals: int) -> str:
    """1,234.50: a column with the same decimals in every row is aligned."""
    return MISSING if value is None else f"{value:,.{decimals}f}"


def decimals_for(values: Iterable[float | None], least: int) -> int:
    """Decimals, at least `least`, that show two digits of the smallest of the values that are not 0."""
    sizes = [abs(value) for value in values if value]
    return max(least, min(6, 1 - math.floor(math.log10(min(sizes))))) if sizes else least


def moment(time: str | float | None) -> str:
    """A time in UTC; a text that is no ISO time stays as it is."""
    if time is None:
        return MISSING
    try:
        when = datetime.fromisoformat(time) if isinstance(time, str) else datetime.fromtimestamp(time, UTC)
        when = when.astimezone(UTC) if when.tzinfo else when
        return f"{when:%Y-%m-%d %H:%M:%S}" + (" UTC" if when.tzinfo else "")
    except (ValueError, OverflowError, OSError):
        return str(time)


def equation(text: str) -> Markup:
    """An equation of a law's form with its exponents raised and its powers of ten written out."""
    words = []
    for word in text.split(" "):
        base, raised, exponent = (MINUS if word == "-" else word).partition("^")
        shown = _scaled(base)
        if raised:
            power, closing = exponent.rstrip(")"), ")" * exponent.count(")")
            shown += Markup("<sup>{}</sup>{}").format(power.replace("-", MINUS), closing)
        words.append(shown)
    return Markup(" ").join(words)


def _scaled(word: str) -> Markup:
    """1.2e+13) with a raised exponent in the place of e+."""
    found = re.fullmatch(r"(\(*-?[0-9.]+)e([+-][0-9]+)(\)*)", word)
    if not found:
        return escape(word)
    mantissa, power, closing = found.groups()
    raised = Markup("<sup>{}</sup>").format(str(int(power)).replace("-", MINUS))
    return Markup("{}\N{NO-BREAK SPACE}{}\N{NO-BREAK SPACE}10{}{}").format(mantissa, TIMES, raised, closing)


def symbol(name: str) -> Markup:
    """The name of a law's parameter as papers set it: in Greek, with subscripts."""
    known = {"alpha": "&alpha;", "beta": "&beta;", "C0": "C<sub>0</sub>", "Lmax": "L<sub>max</sub>"}
    return Markup("<i>{}</i>").format(Markup(known[name]) if name in known else name)


def parameter(value: float | None) -> str:
    """The value of a law's parameter; None is infinity there."""
    if value is None:
        return "∞"
    return scientific(value) if value and not 1e-3 <= abs(value) < 1e5 else digits(value).replace("-", MINUS)


def cell(value: str | float | None) -> str:
    """A cell of a figure's data: six digits are more than anyone reads; the CSV has all."""
    if value is None:
        return MISSING
    return value if isinstance(value, str) else f"{value:.6g}".replace("e+", "e")


FILTERS = {
    function.__name__: function
    for function in (
        count,
        whole,
        digits,
        scientific,
        loss,
        percent,
        duration,
        in_words,
        size,
        fixed,
        moment,
        equation,
        symbol,
        parameter,
        cell,
        ratio,
    )
}
