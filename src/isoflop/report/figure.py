"""A figure as the page shows it and `isoflop report --figures` saves it: the drawing, its legend, and its data."""

from dataclasses import dataclass
from functools import cached_property

from isoflop.report.drawing import Drawing
from isoflop.report.placing import PlacedPanel, place
from isoflop.report.table import Key, Table

# Classes that colour lines and marks (templates/style): sizes of the ladder from small to large; published families,
# told apart by their glyphs as well; what was held out; laws.
SHADES = tuple(f"s{i}" for i in range(9))
PUBLISHED = tuple(f"p{i}" for i in range(7))
COLOURS = (*SHADES, *PUBLISHED, "held", "law", "ink", "limit")


@dataclass(frozen=True)
class Figure:
    """`table` holds the numbers that are drawn, exactly where they are not means."""

    drawing: Drawing
    keys: tuple[Key, ...]
    table: Table

    @cached_property
    def placed(self) -> tuple[PlacedPanel, ...]:
        """As it is drawn where no script runs."""
        return place(self.drawing)


def shade(share: float) -> str:
    """The class of a size, from 0 for the smallest to 1 for the largest."""
    return SHADES[round(share * (len(SHADES) - 1))]
