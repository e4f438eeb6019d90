/** The page that a browser on the same machine opens: one model, by functions of `edge` that its driver calls. */

import * as model from "./model.js";

const NAME = "model";

window.edge = {
  openFile: (device, threads, outputs, layout) => model.openFile(NAME, device, threads, outputs, layout),
  openBundle: (device, threads, outputs, variant) => model.openBundle(NAME, device, threads, outputs, variant),
  run: (feeds) => model.run(NAME, feeds),
  runSteps: (feeds) => model.runSteps(NAME, feeds),
  time: (feeds) => model.time(NAME, feeds),
  timeStep: (feeds, isFirst) => model.timeStep(NAME, feeds, isFirst),
  adapter: model.adapter,
};
