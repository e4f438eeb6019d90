"""Addresses are shown without the credentials in them."""

from collections.abc import Callable

import pytest

from edge_assets.addresses import hide_credentials, without_credentials
from edge_assets.errors import one_line, printable, told

SHOWN = {
    "http://alice:s3cret@host:5000/a?b=1&token=x#/experiments": "http://host:5000/a?b=1#/experiments",
    "http://alice:p@ss@host/x": "http://host/x",
    "http://alice:half/half@host/x": "http://***",
    "http://[": "http://***",
    "http://host/#/runs/1?token=x": "http://host/#/runs/1",
    "https://bucket.host/key?X-Amz-Signature=1&X-Amz-Credential=2": "https://bucket.host/key",
    "postgresql+psycopg2://u:p@[::1]:5432/db?sslmode=require&password=q": (
        "postgresql+psycopg2://[::1]:5432/db?sslmode=require"
    ),
    "s3://id:secret@bucket/prefix": "s3://bucket/prefix",
    "simplecache::https://u:p@host/f?token=x": "simplecache::https://host/f",
    "zip://*.pt::simplecache::ftp://u:p@[fe80::1]/a.zip": "zip://*.pt::simplecache::ftp://[fe80::1]/a.zip",
}
KEPT = (
    "http://[::1]:5000/a",
    "sqlite:////data/mlflow.db",
    "sqlite:///mlflow.db",
    "/plain/path",
    "s3://bucket/p",
    "file:///tmp/a",
    "digits",
)


@pytest.mark.parametrize(("given", "shown"), SHOWN.items())
def test_credentials_are_left_out(given: str, shown: str) -> None:
    assert without_credentials(given) == shown


@pytest.mark.parametrize("address", KEPT)
def test_an_address_without_credentials_stays_as_it_is(address: str) -> None:
    assert without_credentials(address) == address


def test_every_address_in_a_message_loses_its_credentials() -> None:
    message = "no answer of http://a:b@c/d, tried 'http://x:y@z:1' https://h/?token=q now"
    assert hide_credentials(message) == "no answer of http://c/d, tried 'http://z:1' https://h/ now"


def test_a_sentences_own_punctuation_is_no_part_of_an_address() -> None:
    message = "no answer (http://a:b@host:5000), nor of http://a:b@other:1."
    assert hide_credentials(message) == "no answer (http://host:5000), nor of http://other:1."


def test_long_texts_are_looked_through_in_time() -> None:
    assert hide_credentials(f"{'x' * 1_000_000}://") == f"{'x' * 1_000_000}://"


@pytest.mark.parametrize("show", [printable, lambda text: one_line(OSError(text)), lambda text: told(OSError(text))])
def test_what_messages_show_of_others_texts_has_no_credentials(show: Callable[[str], str]) -> None:
    shown = show("cannot reach ftp://alice:s3cret@host/store?token=t0ken")
    assert "ftp://host/store" in shown
    assert "s3cret" not in shown
    assert "t0ken" not in shown
