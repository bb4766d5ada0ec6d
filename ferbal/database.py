"""The database of a search: SQLite beside the study, or any that SQLAlchemy speaks to, PostgreSQL say.

One that is locked, or a server that does not answer, is waited for. What was asked for meanwhile is then done once:
every question and every change is a transaction of its own.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import cache, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ferbal.errors import FerbalError, UsageError, lacking

if TYPE_CHECKING:
    import optuna

LOCK_TIMEOUT = 600  # seconds to wait for a database that another process has locked, or that does not answer
CONNECT_TIMEOUT = 10  # seconds that a server has to answer
RETRY_EVERY = 1.0  # seconds between two tries
_REFUSED = (
    "authentication failed",
    "no password supplied",
    "does not exist",
    "no pg_hba.conf entry",
    "permission denied",
)
_PASSWORDS = ("the environment (PGPASSWORD)", "~/.pgpass", "a service file")

_log = logging.getLogger(__name__)


def check(url: str) -> None:
    """Raise UsageError for a URL that no database has, or that holds a password. The message never repeats it."""
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError

    try:
        parsed = make_url(url)
        parsed.get_dialect().import_dbapi()
    except NoSuchModuleError:
        raise UsageError(
            f"{parsed.drivername}: no such kind of database is known here; give sqlite, or a URL such as "
            "postgresql+psycopg://user@host/name"
        ) from None
    except (ArgumentError, ValueError):
        raise UsageError(
            "no database has such a URL; give sqlite, or a URL such as postgresql+psycopg://user@host/name"
        ) from None
    except ImportError:
        if parsed.drivername.endswith("psycopg"):
            raise lacking(parsed.drivername, "psycopg", "postgres") from None
        raise UsageError(f"{parsed.drivername}: its driver is not installed; get that") from None
    if parsed.password is not None or any("password" in name for name in parsed.query):
        raise UsageError(
            f"a password does not belong in a study file or on a command line, where others read it; leave it out "
            f"here and give it in {', in '.join(_PASSWORDS[:2])} or in {_PASSWORDS[2]}"
        )


@cache
def storage(url: str) -> optuna.storages.RDBStorage:
    """Where Optuna keeps its studies, made if it is not there."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if url.startswith("sqlite"):
        return optuna.storages.RDBStorage(url, engine_kwargs={"connect_args": {"timeout": LOCK_TIMEOUT}})
    return _retrying(lambda: _waiting(optuna.storages.RDBStorage(url, engine_kwargs=engine(url)), url), url)()


def file_of(url: str) -> Path | None:
    """The file of a database that is one; None of a server."""
    from sqlalchemy import make_url

    address = make_url(url)
    return Path(address.database or "") if address.get_backend_name() == "sqlite" else None


def place(url: str) -> str:
    """Where a database is, as a message tells it."""
    from sqlalchemy import make_url

    return str(file_of(url) or make_url(url).render_as_string())


def engine(url: str) -> dict[str, Any]:
    """How SQLAlchemy reaches a server: what it had been given up for is tried before it is used."""
    libpq = url.startswith(("postgresql:", "postgresql+psycopg"))
    # names of strategies go beyond ASCII, which a server whose locale is C takes, and gives back as bytes
    arguments = {"connect_timeout": CONNECT_TIMEOUT, "client_encoding": "utf8"} if libpq else {}
    return {"pool_pre_ping": True, "connect_args": arguments}


def failure(error: BaseException, url: str) -> FerbalError | None:
    """What a user should know of an error of the database at a URL, or None for any other error."""
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    if not isinstance(error, SQLAlchemyError | optuna.exceptions.StorageInternalError):
        return None
    said = _said(error)
    if "locked" in said:
        what = f"another process has kept it locked for {LOCK_TIMEOUT} s; end that process"
    elif "full" in said:
        what = "there is no space left on the disk; make some"
    elif any(sign in said for sign in _REFUSED):
        what = f"{_short(said)}; passwords are read from {', '.join(_PASSWORDS[:2])} or {_PASSWORDS[2]}; set it right"
    elif _unanswered(error):
        what = f"it did not answer within {LOCK_TIMEOUT} s ({_short(said)}); see that its server runs"
    else:
        what = f"{_short(said)}; see that it can be written and is whole"
    return FerbalError(
        f"the search's database, {place(url)}: {what}, then run the same command again: it goes on from here"
    )


def _waiting(kept: optuna.storages.RDBStorage, url: str) -> optuna.storages.RDBStorage:
    """The same storage, every transaction of which waits for the server."""
    import optuna

    private = ("_create_new_trial", "_set_trial_param", "_get_trials", "_get_best_trial_id")
    for name in (*sorted(optuna.storages.BaseStorage.__abstractmethods__), *private):
        setattr(kept, name, _retrying(getattr(kept, name), url))
    return kept


def _retrying(act: Callable[..., Any], url: str) -> Callable[..., Any]:
    """The same act, done again until the server answers or patience is at its end."""

    @wraps(act)
    def acted(*arguments: Any, **named: Any) -> Any:
        import optuna
        from sqlalchemy.exc import SQLAlchemyError

        until, lost = time.monotonic() + LOCK_TIMEOUT, False
        while True:
            try:
                return act(*arguments, **named)
            except optuna.exceptions.UpdateFinishedTrialError:
                if lost:  # it was done; what was lost is the answer
                    return True
                raise
            except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
                if not _unanswered(error) or time.monotonic() > until:
                    raise failure(error, url) or error from None
                if not lost:
                    _log.warning(
                        "the search's database does not answer (%s); waiting up to %d s for it",
                        _short(_said(error)),
                        LOCK_TIMEOUT,
                    )
                lost = True
                time.sleep(RETRY_EVERY)

    return acted


def _unanswered(error: BaseException) -> bool:
    """Whether an error says that the server cannot be reached, and not that it has refused something."""
    from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

    cause = _cause(error)
    if not isinstance(cause, DBAPIError) or any(sign in str(cause.orig) for sign in _REFUSED):
        return False
    return cause.connection_invalidated or isinstance(cause, OperationalError | InterfaceError)


def _cause(error: BaseException) -> BaseException:
    import optuna

    inner = error.__cause__ if isinstance(error, optuna.exceptions.StorageInternalError) else error
    return inner or error


def _said(error: BaseException) -> str:
    cause = _cause(error)
    return str(getattr(cause, "orig", None) or cause)


def _short(said: str) -> str:
    """The first line, without what a driver tells of each address it has tried."""
    return said.splitlines()[0].strip()
