"""Secrets as files: read on demand, renewed when rotated, never quoted."""

import ssl
from pathlib import Path

import pytest

from marty_msf.core.saga.calling import SecretFile
from marty_msf.worker.saga.calling.secret_files import LOOK_SECONDS, SecretFiles, SecretUnreadable

TOKEN = SecretFile("payment-token", "authorization")


def put(directory: Path, text: bytes, secret: SecretFile = TOKEN) -> None:
    """As kubelet does: the new file takes the old one's place in one step."""
    (directory / secret.name).mkdir(exist_ok=True)
    new = directory / secret.name / ".new"
    new.write_bytes(text)
    new.rename(directory / secret.name / secret.key)


def test_a_rotated_secret_is_used_within_a_second(tmp_path: Path) -> None:
    now = [0.0]
    files = SecretFiles(tmp_path, lambda: now[0])
    put(tmp_path, b"Bearer one\n")
    assert files.header(TOKEN) == "Bearer one"
    put(tmp_path, b"Bearer two\n")
    assert files.header(TOKEN) == "Bearer one", "the disk is not asked for every call"
    now[0] += LOOK_SECONDS
    assert files.header(TOKEN) == "Bearer two"


def test_a_secret_that_comes_later_is_found(tmp_path: Path) -> None:
    files = SecretFiles(tmp_path)
    with pytest.raises(
        SecretUnreadable, match=r"'authorization' of Secret 'payment-token' cannot be read .* create the"
    ):
        files.header(TOKEN)
    put(tmp_path, b"Bearer one")
    assert files.header(TOKEN) == "Bearer one"


@pytest.mark.parametrize("text", [b"", b"\n", b"s3cret\r\nX-Admin: 1", b"s3cret\xff", b"s3cret\0", b"s3cret" * 2000])
def test_what_cannot_be_a_header_is_refused_without_showing_it(tmp_path: Path, text: bytes) -> None:
    put(tmp_path, text)
    with pytest.raises(SecretUnreadable) as error:
        SecretFiles(tmp_path).header(TOKEN)
    assert "s3cret" not in str(error.value)


@pytest.mark.parametrize("text", [b"", b"no certificate", b"\xff\xfe"])
def test_what_holds_no_certificates_trusts_nobody(tmp_path: Path, text: bytes) -> None:
    ca = SecretFile("ca", "ca.crt")
    put(tmp_path, text, ca)
    with pytest.raises(SecretUnreadable, match="PEM"):
        SecretFiles(tmp_path).trust(ca)


def test_a_secret_without_rights_says_so(tmp_path: Path) -> None:
    put(tmp_path, b"Bearer one")
    (tmp_path / TOKEN.name / TOKEN.key).unlink()
    (tmp_path / TOKEN.name / TOKEN.key).mkdir()
    with pytest.raises(SecretUnreadable, match=r"Is a directory|no header value"):
        SecretFiles(tmp_path).header(TOKEN)


def test_the_trust_is_exactly_the_file_s(tmp_path: Path) -> None:
    ca = SecretFile("ca", "ca.crt")
    put(tmp_path, _system_certificate(), ca)
    trust = SecretFiles(tmp_path).trust(ca)
    assert trust.verify_mode is ssl.CERT_REQUIRED
    assert trust.check_hostname
    assert len(trust.get_ca_certs()) == 1


def _system_certificate() -> bytes:
    bundle = ssl.get_default_verify_paths().openssl_cafile
    text = Path(bundle).read_text()
    end = "-----END CERTIFICATE-----"
    return (text[: text.index(end)] + end + "\n").encode()


def test_a_redis_is_where_the_secret_says_and_other_texts_are_refused_without_showing_them(tmp_path: Path) -> None:
    put(tmp_path, b"rediss://:s3cret@redis.shop:6379/0\n")
    assert SecretFiles(tmp_path).redis_url(TOKEN) == "rediss://:s3cret@redis.shop:6379/0"
    for text in (b"http://s3cret", b"unix:///s3cret", b"", b"s3cret\xff"):
        put(tmp_path, text)
        with pytest.raises(SecretUnreadable, match="no URL of a Redis") as error:
            SecretFiles(tmp_path).redis_url(TOKEN)
        assert "s3cret" not in str(error.value)
