"""Where the code of an asset is: what Dagster's page links to as code references.

Dagster's own `with_source_code_references` names the function that is decorated, which is one factory for all assets of
a kind. What somebody looks for is the function that the factory's asset calls. Places are absolute paths: they are said
of definitions, by the process that has loaded them, and are in no materialization and no run.
"""

import inspect
import warnings
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import dagster as dg

from edge_assets.spec.architecture import place

KEY = "dagster/code_references"  # where Dagster's page looks
Metadata = Mapping[str, dg.MetadataValue]


def calls(*functions: Callable[..., object], model: str | None = None) -> Metadata:
    """The metadata of an asset that calls these functions, and the model's architecture if it runs that."""
    references: list[dg.LocalFileCodeReference | dg.UrlCodeReference] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)  # the classes are in beta; without them there is no reference
        for function in functions:
            references.append(_reference(function))
        if model is not None:
            path = place(model)
            if path is not None:
                references.append(dg.LocalFileCodeReference(file_path=str(path.resolve()), label=model))
        return {KEY: dg.CodeReferencesMetadataValue(code_references=references)}


@cache  # the same for every model and family
def _reference(function: Callable[..., object]) -> dg.LocalFileCodeReference:
    code = inspect.unwrap(function).__code__
    module = function.__module__.split(".")[-2:]  # as much as Dagster's page has room for
    return dg.LocalFileCodeReference(
        file_path=str(Path(code.co_filename).resolve()),
        line_number=code.co_firstlineno,
        label=f"{'.'.join(module)}.{function.__qualname__}",
    )
