"""Everything Dagster loads: every registered model, for every family that it targets, and the project's own components.

A model of the defs folder is among those components, as Dagster loads them: one that is wrong there is an error of the
whole code location.
"""

from edge_assets.core import garbage

garbage.look_less_often()  # in code servers and the processes of runs, before they import the rest

import dagster as dg

from edge_assets.defs.location import location_definitions, model_definitions, resource_definitions
from edge_assets.registry import registry
from edge_assets.spec.project import defs_folder, has_definitions


def project_definitions() -> dg.Definitions:
    """The components of the defs folder.

    An empty one is not looked into: to load a folder, Dagster imports the components of every installed library.
    """
    folder = defs_folder()
    if folder is None or not has_definitions(folder):
        return dg.Definitions()
    return dg.load_from_defs_folder(path_within_project=folder)


registry().log_broken()
defs = dg.Definitions.merge(
    resource_definitions(),
    location_definitions(),
    *(model_definitions(spec) for spec in registry().named),
    project_definitions(),
)
