"""What every page is made from, and who may see which run."""

import asyncio
from dataclasses import dataclass, field

from starlette.exceptions import HTTPException
from starlette.requests import Request

from isoflop.errors import InputError
from isoflop.studio.accounts import Account, Accounts
from isoflop.studio.catalogue import Catalogue, Listed
from isoflop.studio.guard import ForbiddenError, account_of
from isoflop.studio.live import Lives
from isoflop.studio.places import Places
from isoflop.studio.queue import Queue
from isoflop.studio.quote import Quotes
from isoflop.studio.sessions import Audit, Sessions


@dataclass(frozen=True)
class Studio:
    """What every page is made from. `secure` marks cookies for HTTPS only; one password is
    looked at at a time, and `bringing` lets each account send one file at a time."""

    places: Places
    catalogue: Catalogue
    queue: Queue
    quotes: Quotes
    accounts: Accounts
    sessions: Sessions
    audit: Audit
    lives: Lives
    most_upload_bytes: int
    secure: bool = False
    entering: asyncio.Lock = field(default_factory=asyncio.Lock)
    bringing: dict[str, asyncio.Lock] = field(default_factory=dict)

    def visible(self, account: Account, run: Listed) -> bool:
        """Whether someone may see a run: their own, a shared one, or all if they administer."""
        if account.may("administer"):
            return True
        return run.order is not None and run.order.seen_by(account.name)

    def runs_of(self, account: Account) -> list[Listed]:
        return [run for run in self.catalogue.runs() if self.visible(account, run)]

    def names_of(self, account: Account) -> frozenset[str]:
        """Of the runs that someone may see."""
        everything, orders = account.may("administer"), self.catalogue.orders().items()
        return frozenset(name for name, order in orders if everything or (order and order.seen_by(account.name)))

    def run_of(self, request: Request, mine: bool = False) -> Listed:
        """The run that an address names; with `mine`, to change it.

        Raises:
            HTTPException: there is none, or it is invisible: which of the two nobody learns.
            ForbiddenError: it is someone else's.
        """
        account = account_of(request, "launch" if mine else "see")
        try:
            run = self.catalogue.run(request.path_params["run"])
        except InputError:
            run = None
        if run is None or not self.visible(account, run):
            raise HTTPException(404, f"no run {request.path_params['run'][:80]!r} here")
        if mine and not (account.may("administer") or run.owner == account.name):
            raise ForbiddenError(f"{run.name} is {run.owner or 'nobody'}'s")
        return run


def studio_of(request: Request) -> Studio:
    studio: Studio = request.app.state.studio
    return studio
