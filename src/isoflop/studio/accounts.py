"""Accounts: who may come in, what they may do, and how much they may use."""

import base64
import hashlib
import hmac
import json
import os
import threading
import time
from pathlib import Path
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from isoflop.durable import write_json
from isoflop.errors import InputError, WorkError
from isoflop.studio.places import checked_name

Role = Literal["see", "launch", "administer"]
ROLES: tuple[Role, ...] = get_args(Role)
# 32 MiB and about a tenth of a second a try: what OWASP's password storage sheet asks of scrypt with p = 3.
SCRYPT = {"n": 2**15, "r": 8, "p": 3, "maxmem": 2**26, "dklen": 32}
SHORTEST = 12
# Tries of one account within the minutes, after which it has to wait.
TRIES, TRIES_SECONDS = 5, 300.0
MOST_NAMES = 10_000


class Account(BaseModel):
    """Someone. `most_price` is what they may spend in all, in the family file's currency, as quoted."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    role: Role
    password: str = ""
    most_price: float | None = Field(None, ge=0)

    def may(self, role: Role) -> bool:
        """Whether the role holds what `role` does."""
        return ROLES.index(self.role) >= ROLES.index(role)


# Who sits at the machine itself: has the terminal and could do all of it there.
ALONE = Account(name="local", role="administer")


class Accounts:
    """The file of accounts; read again when it has changed, so that `isoflop studio account` needs no restart."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._kept: tuple[int, dict[str, Account]] = (0, {})
        self._failures: dict[str, list[float]] = {}

    def all(self) -> dict[str, Account]:
        """
        Raises:
            WorkError: the file is damaged: nobody comes in then.
        """
        try:
            stamp = self._path.stat().st_mtime_ns
        except OSError:
            return {}
        if self._kept[0] != stamp:
            try:
                rows = [Account.model_validate(row) for row in json.loads(self._path.read_bytes())]
            except (OSError, ValueError, TypeError, ValidationError):
                raise WorkError(f"{self._path}: damaged; repair it or make the accounts anew") from None
            self._kept = (stamp, {row.name: row for row in rows})
        return self._kept[1]

    def put(self, name: str, role: str, password: str, most_price: float | None) -> Account:
        """Adds an account or changes it.

        Raises:
            InputError: the name, role or password cannot be used.
        """
        if role not in ROLES:
            raise InputError(f"role {role[:40]!r}: use {', '.join(ROLES)}")
        if len(password) < SHORTEST:
            raise InputError(f"password: {len(password)} characters; use {SHORTEST} or more")
        if name == ALONE.name:
            raise InputError(f"name {name!r}: is whoever sits at the machine; use another")
        account = Account(name=checked_name(name), role=role, password=hashed(password), most_price=most_price)
        rows = {**self.all(), account.name: account}
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_json(self._path, [row.model_dump(mode="json") for row in rows.values()])
        self._path.chmod(0o600)
        return account

    def enter(self, name: str, password: str) -> Account | None:
        """The account if the password is its own.

        Raises:
            InputError: too many tries.
        """
        now = time.monotonic()
        with self._lock:
            recent = [when for when in self._failures.get(name, []) if now - when < TRIES_SECONDS]
            if len(recent) >= TRIES:
                raise InputError("too many wrong passwords; wait five minutes")
            # Counted before it is known: many at once are many tries.
            self._failures[name] = [*recent, now]
            if len(self._failures) > MOST_NAMES:  # names that nobody has, from someone who makes them up
                self._failures = {one: when for one, when in self._failures.items() if now - when[-1] < TRIES_SECONDS}
        account = self.all().get(name)
        # A name that is not there takes as long as a wrong password.
        right = matches(password, account.password if account else _NOBODY)
        if account is None or not right:
            return None
        with self._lock:
            self._failures.pop(name, None)
        return account


def hashed(password: str) -> str:
    """The password as it is kept: scrypt, its salt, its hash."""
    salt = os.urandom(16)
    found = hashlib.scrypt(password.encode(), salt=salt, **SCRYPT)
    return "$".join(("scrypt", *(base64.b64encode(part).decode() for part in (salt, found))))


def matches(password: str, kept: str) -> bool:
    """Whether it is the password that was hashed."""
    try:
        kind, salt, found = kept.split("$")
        wanted = base64.b64decode(found)
        tried = hashlib.scrypt(password.encode(), salt=base64.b64decode(salt), **SCRYPT)
    except ValueError:
        return False
    return kind == "scrypt" and hmac.compare_digest(tried, wanted)


_NOBODY = "scrypt$" + base64.b64encode(bytes(16)).decode() + "$" + base64.b64encode(bytes(32)).decode()
