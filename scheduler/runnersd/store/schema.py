"""The schema's versions, and how a database of an older one becomes the newest: one transaction a version."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

from runners.errors import InvalidConfig

#: `PRAGMA application_id` of our databases: "rnrs".
APPLICATION = 0x726E7273

#: Script N brings a database from version N to N + 1. Released ones never change.
SCRIPTS: tuple[str, ...] = tuple(
    Path(__file__).with_name(name).read_text(encoding="utf-8")
    for name in ("schema.sql", "schema_2.sql", "schema_3.sql")
)


def migrate(connection: sqlite3.Connection, scripts: Sequence[str] = SCRIPTS) -> int:
    """Bring the database to the newest version; a fresh one starts at 0. Returns the version found.

    Every version is one transaction, its number included: a crash leaves the one before.

    Raises:
        InvalidConfig: the database is not ours, or was written by a newer runnersd.
    """
    found: int = connection.execute("PRAGMA user_version").fetchone()[0]
    application: int = connection.execute("PRAGMA application_id").fetchone()[0]
    if application != APPLICATION and (found or connection.execute("SELECT 1 FROM sqlite_schema").fetchone()):
        raise InvalidConfig("cannot use the database: another program wrote it; say another --state-dir")
    if found > len(scripts):
        raise InvalidConfig(
            f"cannot use the database: its schema has version {found}, this runnersd knows versions up to "
            f"{len(scripts)}; start the newer runnersd that wrote it, or say another --state-dir"
        )
    for version in range(found, len(scripts)):
        connection.execute("BEGIN IMMEDIATE")
        try:
            for statement in statements(scripts[version]):
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION}")
            connection.execute(f"PRAGMA user_version = {version + 1}")
            connection.execute("COMMIT")
        except sqlite3.Error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
    return found


def statements(script: str) -> Iterator[str]:
    """The statements of a script, one by one: `executescript` would commit the transaction it runs in."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
