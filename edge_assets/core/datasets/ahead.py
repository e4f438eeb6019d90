"""Reading ahead: while a runtime works on some samples, a thread makes the next ones."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def read_ahead(made: Iterator[T]) -> Iterator[T]:
    """The same things in the same order, each made while its predecessor is in use: at most two exist at a time.

    One thread makes them all, and its errors are raised here. Nothing that is made is None.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="reading") as reader:
        coming = reader.submit(next, made, None)
        while (found := coming.result()) is not None:
            coming = reader.submit(next, made, None)
            yield found
