"""Addresses as they may be shown: without the passwords and tokens that people write into them.

Only the client that connects gets an address as it was given. Logs, metadata, pointers in the store, links and
messages get what these functions return.
"""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, urlencode, urlsplit

# Names of query parameters whose values are secrets, as databases, object stores and gateways call them.
SECRET = re.compile(r"pass|pwd|token|secret|key|sig|cred|auth|session", re.IGNORECASE)
# the sentence's own punctuation after an address is no part of it
ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,31}://[^\s\"'<>`]*[^\s\"'<>`.,;:!)\]}]")
HIDDEN = "***"
CHAINED = re.compile(r"::(?=[A-Za-z][A-Za-z0-9+.-]*(?:://|::))")  # between the links of an address of fsspec's


def without_credentials(url: str) -> str:
    """The same address without user name, password and secret query parameters. A plain path stays as it is.

    Of a chain of fsspec's, such as `simplecache::https://host/file`, each link.
    """
    if "://" not in url:
        return url
    if CHAINED.search(url):
        links = [without_credentials(link) for link in CHAINED.split(url)]
        return "::".join(links)
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises if no number stands after the colon, but half of a password with a slash in it
    except ValueError:
        return f"{url.partition('://')[0]}://{HIDDEN}"
    # put together by hand: geturl() makes one slash of the three in sqlite:///file
    host = parts.netloc.rpartition("@")[2]
    query = _public(parts.query)
    fragment = _public(parts.fragment)
    return f"{parts.scheme}://{host}{parts.path}{query and '?' + query}{fragment and '#' + fragment}"


def hide_credentials(text: str) -> str:
    """A message with every address in it shown without its credentials."""
    if "://" not in text:
        return text
    return ADDRESS.sub(lambda found: without_credentials(found.group()), text)


def _public(query: str) -> str:
    """A query, or the query that a page keeps behind the `#`, without its secret parameters."""
    page, mark, pairs = query.rpartition("?")
    if not SECRET.search(pairs):
        return query
    kept = [(name, value) for name, value in parse_qsl(pairs, keep_blank_values=True) if not SECRET.search(name)]
    return page + mark * bool(kept) + urlencode(kept)
