"""What a service reads from its environment."""

import pytest

from shop.settings import MissingSetting, Settings

URL = "postgresql://shop:secret@postgres/shop"


def test_defaults_fill_what_is_not_set() -> None:
    settings = Settings.from_environment({"DATABASE_URL": URL})

    assert (settings.host, settings.port, settings.pool_size) == ("0.0.0.0", 8080, 10)


def test_everything_can_be_set() -> None:
    settings = Settings.from_environment(
        {"DATABASE_URL": URL, "HTTP_HOST": "127.0.0.1", "HTTP_PORT": "9000", "POOL_SIZE": "3"}
    )

    assert settings == Settings(URL, "127.0.0.1", 9000, 3)


def test_a_missing_url_is_named() -> None:
    with pytest.raises(MissingSetting, match="DATABASE_URL"):
        Settings.from_environment({})


def test_the_password_does_not_show() -> None:
    assert "secret" not in repr(Settings.from_environment({"DATABASE_URL": URL}))
