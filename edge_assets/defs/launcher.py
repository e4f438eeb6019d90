"""Dagster's launcher of runs, with a "Terminate" that also works when the server that launched the run is gone."""

import os
import signal

import dagster as dg

from edge_assets.defs.running import Worker, close_if_dead, is_here, is_running


class RunLauncher(dg.DefaultRunLauncher):
    """Launches as the default does. `dagster.yaml` of the state folder names it."""

    def terminate(self, run_id: str) -> bool:
        """End a run: close it if its process is gone, ask the server that launched it, else interrupt its process."""
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            return False
        if close_if_dead(self._instance, run):
            return True
        try:
            if super().terminate(run_id):
                return True
        except dg.DagsterError as error:  # the server is gone, or is another one than that which launched the run
            why = str(error).partition("\n")[0]
            self._instance.report_engine_event(f"The code server cannot end this run: {why}", run)
        return self._interrupt(run)

    def _interrupt(self, run: dg.DagsterRun) -> bool:
        """Interrupt the run's process as Ctrl-C would. False if it is not one that can be reached from here."""
        worker = Worker.of(run)
        if worker is None or not is_here(worker) or not is_running(worker):
            text = "This run's process cannot be reached from here. If it is gone, force the termination."
            self._instance.report_engine_event(text, run)
            return False
        os.kill(worker.pid, signal.SIGINT)
        self._instance.report_engine_event(f"Interrupted the run's process {worker.pid}.", run)
        return True
