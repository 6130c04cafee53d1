"""What can be told of the schema's files without a database, so that it is told before each commit."""

from marty_msf.store.migrations import migrations, required_version


def test_migrations_are_numbered_without_a_gap_and_none_twice() -> None:
    assert [migration.version for migration in migrations()] == list(range(1, required_version() + 1))
