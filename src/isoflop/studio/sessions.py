"""Who is asking: one-time links, sessions in a cookie, and what only a page of ours can know."""

import hashlib
import hmac
import json
import secrets
import threading
import time
from pathlib import Path
from typing import Any

from isoflop.studio.accounts import ALONE, Account, Accounts
from isoflop.studio.catalogue import Catalogue

COOKIE = "isoflop-studio"
SESSION_SECONDS = 30 * 86_400.0
LINK_SECONDS = 86_400.0


class Sessions:
    """Sessions outlive the server, as their hashes lie in the database; links do not. `of` tells studios apart."""

    def __init__(
        self, catalogue: Catalogue, accounts: Accounts, by_account: bool, header: str | None = None, of: str = ""
    ) -> None:
        self._catalogue, self._accounts = catalogue, accounts
        # Cookies of one machine go to all of its ports: without a name of its own a second studio would sign the first
        # one out.
        self.cookie = f"{COOKIE}-{_hash(of)[:8]}"
        self.by_account, self.header = by_account, header
        # Behind a proxy there is no session: without a secret of the server, who knows a name could make its forms.
        self._proxy_secret = secrets.token_urlsafe(32)
        self._links: dict[str, float] = {}
        self._lock = threading.Lock()

    def new_link(self) -> str:
        """A token that opens one session."""
        token = secrets.token_urlsafe(24)
        with self._lock:
            self._links[_hash(token)] = time.monotonic() + LINK_SECONDS
        return token

    def use_link(self, token: str) -> str | None:
        """The secret of a new session, for a token that was not used before."""
        with self._lock:
            ends = self._links.pop(_hash(token), 0.0)
        return self.begin(ALONE) if ends > time.monotonic() and not self.by_account else None

    def begin(self, account: Account) -> str:
        """The secret of a new session."""
        secret = secrets.token_urlsafe(32)
        self._catalogue.begin_session(_hash(secret), account.name, SESSION_SECONDS)
        return secret

    def who(self, secret: str | None, headers: dict[str, str]) -> Account | None:
        """Whose session it is, or whom the proxy names; None for nobody."""
        if self.header is not None:
            return self._accounts.all().get(headers.get(self.header.lower(), ""))
        name = self._catalogue.session(_hash(secret)) if secret else None
        if name is None:
            return None
        if not self.by_account:
            return ALONE if name == ALONE.name else None
        return self._accounts.all().get(name)

    def secret_of(self, secret: str | None, account: Account | None) -> str | None:
        """What the forms of a request are made from: its session's secret, or one of the account behind a proxy."""
        if self.header is None:
            return secret
        return f"{self._proxy_secret} {account.name}" if account else None

    def end(self, secret: str | None) -> None:
        if secret:
            self._catalogue.end_sessions(_hash(secret))


def form_token(secret: str) -> str:
    """What every form of a session carries: another page cannot read it, and it tells nothing of the secret."""
    return hmac.new(secret.encode(), b"form", hashlib.sha256).hexdigest()


def is_form_token(secret: str, token: str) -> bool:
    # As bytes: text that is not ASCII is compared with a TypeError.
    return hmac.compare_digest(form_token(secret).encode(), token.encode())


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


class Audit:
    """audit.jsonl: who did what, when. Lines are only added."""

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()

    def add(self, account: str, what: str, **about: Any) -> None:
        """
        Raises:
            OSError: it cannot be written; what was to be done should not be.
        """
        line = json.dumps({"time": time.time(), "account": account, "what": what, **about}, ensure_ascii=False) + "\n"
        with self._lock:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with open(self._path, "a", encoding="utf-8") as file:
                file.write(line)

    def last(self, count: int) -> list[dict[str, Any]]:
        """The newest lines, newest first."""
        try:
            with open(self._path, "rb") as file:
                file.seek(max(0, file.seek(0, 2) - 400 * count))
                lines = file.read().splitlines()
        except OSError:
            return []
        found = []
        for line in reversed(lines[-count:]):
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
        return found
