"""Addresses are shown without the credentials in them."""

import pytest

from edge_assets.addresses import hide_credentials, without_credentials

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
}
KEPT = ("sqlite:////data/mlflow.db", "sqlite:///mlflow.db", "/plain/path", "s3://bucket/p", "file:///tmp/a", "digits")


@pytest.mark.parametrize(("given", "shown"), SHOWN.items())
def test_credentials_are_left_out(given: str, shown: str) -> None:
    assert without_credentials(given) == shown


@pytest.mark.parametrize("address", KEPT)
def test_an_address_without_credentials_stays_as_it_is(address: str) -> None:
    assert without_credentials(address) == address


def test_every_address_in_a_message_loses_its_credentials() -> None:
    message = "no answer of http://a:b@c/d, tried 'http://x:y@z:1' https://h/?token=q now"
    assert hide_credentials(message) == "no answer of http://c/d, tried 'http://z:1' https://h/ now"
