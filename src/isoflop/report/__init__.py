"""One self-contained HTML page about a family: what was foretold, what was measured, and what it cost.

Nothing is imported here: `isoflop tune` draws one figure and needs none of the laws that the page does.
"""
