"""How open families are: the table of the page, and the same as a picture for slides."""

from isoflop.report.drawing import Drawing, Mark, Panel, Words
from isoflop.report.figure import Figure
from isoflop.report.records import Comparison
from isoflop.report.scale import Scale
from isoflop.report.table import Key, Table

PARTS = ("data", "code", "weights", "recipe", "compute_optimal")
LOOKS = {
    "open": ("p2", "dot"),
    "yes": ("p2", "dot"),
    "partly": ("p4", "square"),
    "closed": ("limit", "saltire"),
    "no": ("limit", "saltire"),
}
ROW_PIXELS, NAME_SHARE = 30, 1.3


def openness_table(beside: Comparison) -> Table:
    """A row for each family, with its source."""
    ratios = ("tokens_per_parameter_low", "tokens_per_parameter_high")
    columns = ("family", *PARTS, *ratios, "licence", "note", "source")
    return Table(columns, tuple(tuple(getattr(row, name) for name in columns) for row in beside.openness))


def draw_openness(beside: Comparison) -> Figure | None:
    """Families one below the other, a mark for each part; None where none is compared. Unknown is left out."""
    rows = beside.openness
    if not rows:
        return None
    x = Scale(-NAME_SHARE, len(PARTS), False, "", "none")
    y = Scale(len(rows) - 0.5, -1.2, False, "", "none")
    words = [Words(column, -0.9, part.replace("_", "-"), dx=-12, dy=4) for column, part in enumerate(PARTS)]
    marks = []
    for number, row in enumerate(rows):
        name = row.family if len(row.family) <= 24 else row.family[:23] + "…"
        words.append(Words(-NAME_SHARE, number, name, "held" if row.ours else "", dx=0, dy=4))
        for column, part in enumerate(PARTS):
            value = getattr(row, part)
            if value in LOOKS:
                colour, glyph = LOOKS[value]
                marks.append(Mark(column, number, glyph, colour, f"{row.family}, {part}: {value}"))
    told = "; ".join(f"{row.family}: " + ", ".join(f"{part} {getattr(row, part)}" for part in PARTS) for row in rows)
    height = 90 + ROW_PIXELS * len(rows)
    drawing = Drawing(
        "openness", "Openness", f"{told}.", (Panel(x, y, (), tuple(marks), tuple(words)),), height, height
    )
    keys = (Key("open, yes", "dot", "p2"), Key("partly", "square", "p4"), Key("closed, no", "saltire", "limit"))
    return Figure(drawing, keys, openness_table(beside))
