"""What several steps of a cell have in common in their recipes."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version

from edge_assets.core.session import layout_of
from edge_assets.core.tools import installed
from edge_assets.core.types import Recipe
from edge_assets.pipeline.identity import Identity, machine_digest
from edge_assets.spec.architecture import architecture_digest
from edge_assets.spec.source import source_digest


@dataclass(frozen=True)
class Recipes:
    """Parts of recipes: everything that decides a step's result has to be in one."""

    cell: Identity

    def of_architecture(
        self,
        step: str,
        code_version: str,
        inputs: Mapping[str, str],
        parameters: Mapping[str, object] | None = None,
        tools: Mapping[str, str] | None = None,
    ) -> Recipe:
        """A recipe of a step that runs the user's architecture in PyTorch."""
        architecture = {"architecture": architecture_digest(self.cell.spec.architecture)}
        named: dict[str, object] = {
            "architecture": self.cell.spec.architecture,
            "inputs": [tensor.name for tensor in self.cell.spec.inputs],
        }
        named |= self.layout()
        return Recipe(
            step,
            code_version,
            {**inputs, **architecture},
            {**named, **(parameters or {})},
            {"torch": version("torch"), **(tools or {})},
        )

    def weights(self) -> dict[str, object]:
        """Which of a checkpoint's weights are read and what becomes of them, where the spec says so."""
        spec = self.cell.spec
        found: dict[str, object] = {}
        if spec.weights is not None:
            found["weights"] = spec.weights
        if spec.flush_subnormals:
            found["flush_subnormals"] = True
        return found

    def layout(self) -> dict[str, object]:
        """Where the model has its batch, and its states: nothing for one that has the batch first everywhere."""
        found = layout_of(self.cell.spec)
        return {"layout": found} if found else {}

    def timing(self) -> dict[str, str]:
        """The machine, where a search chooses by the latency that is measured on it."""
        search = self.cell.spec.search
        if self.cell.is_local and search and search.objective == "latency":
            return {"machine": machine_digest()}
        return {}

    def gates(self) -> list[float | None]:
        return [self.cell.limits.accuracy_drop_points, self.cell.limits.cosine]

    def preprocessing_tools(self) -> dict[str, str]:
        """Versions of what the preprocessing imports. Raises MissingTool naming the extra."""
        return installed(self.cell.spec.preprocess.tools, "text")

    def metric_inputs(self) -> dict[str, str]:
        """The source of metrics that are the user's own."""
        evaluation = self.cell.spec.evaluation
        found = {}
        if ":" in evaluation.deciding.name:
            found["metric"] = source_digest(evaluation.deciding.name)
        for metric in evaluation.others:
            if ":" in metric.name:
                found[f"metric {metric.name}"] = source_digest(metric.name)
        return found

    def metric(self) -> object:
        """The metric that decides: its name where that says all."""
        metric = self.cell.spec.evaluation.metric
        if isinstance(metric, str):
            return metric
        return metric.computed()

    def loss_inputs(self) -> dict[str, str]:
        assert self.cell.spec.finetuning is not None
        name = self.cell.spec.finetuning.loss
        if ":" not in name:
            return {}
        return {"loss": source_digest(name)}

    def evaluation_parameters(self) -> dict[str, object]:
        evaluation = self.cell.spec.evaluation
        parameters: dict[str, object] = {
            "preprocessing": self.cell.spec.preprocess.to_dict(),
            "metric": self.metric(),
            "labels": evaluation.labels,
            "higher_is_better": evaluation.higher_is_better,
            "outputs": [tensor.name for tensor in self.cell.spec.outputs],
        }
        if evaluation.others:
            parameters["metrics"] = [metric.computed() for metric in evaluation.others]
        return parameters
