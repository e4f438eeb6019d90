// An app's use of the bundle's loader, which a type checker must accept, and mistakes that it must find.

import { bundleFetch, ChunkError, EdgeModel, openPicture, openSound, type Feeds, type Progress, type Stream } from "../../edge_assets/toolchains/web/static/bundle/loader.js";

export async function classify(url: URL, picture: HTMLCanvasElement, pixels: Float32Array): Promise<string> {
  const seen: string[] = [];
  const onProgress = ({ phase, loaded = 0, total = 0, fromCache }: Progress): void => {
    seen.push(`${phase} ${loaded}/${total}${fromCache ? " cached" : ""}`);
  };
  try {
    const model = await EdgeModel.load(url, { device: "auto", threads: 2, offline: true, onProgress });
    const { inputs, outputs, class_names, preprocessing } = model.manifest;
    const feeds: Feeds =
      preprocessing.kind === "image"
        ? model.preprocess(picture)
        : { [inputs[0].name]: { type: "float32", data: pixels, dims: [1, pixels.length] } };
    const logits = (await model.run(feeds))[outputs[0].name].data;
    const largest = Array.from(logits, Number).reduce((best, value, i, all) => (value > all[best] ? i : best), 0);
    const saved: number = model.bytes.cached / (model.bytes.wire + model.bytes.cached);
    const why: string | null = model.fallback ?? model.cacheProblem ?? (await model.offline);
    await model.close();
    return `${class_names[largest]} on ${model.device}, ${saved} saved, ${why}, ${seen.at(-1)}`;
  } catch (error) {
    if (error instanceof ChunkError) return `${error.chunk}: ${error.message}`;
    throw error;
  }
}

export async function ofFile(model: EdgeModel, file: File): Promise<Feeds> {
  return model.preprocess(await openPicture(file));
}

export async function heard(model: EdgeModel, file: File): Promise<Feeds> {
  const declared = model.manifest.preprocessing;
  if (declared.kind !== "audio") return {};
  return model.preprocess(await openSound(file, declared.sampling_rate));
}

export async function steps(model: EdgeModel, frames: Float32Array[]): Promise<Feeds[]> {
  if (!model.hasStates) return [];
  const stream: Stream = model.stream();
  const given: Feeds[] = [];
  for (const data of frames) given.push(await stream.run({ frame: { type: "float32", data, dims: [1, data.length] } }));
  stream.reset();
  for (const step of model.steps(model.preprocess(frames[0]))) given.push(await stream.run(step));
  const kept: string[] = Object.values(model.manifest.layout?.states ?? {}).map(({ output }) => output);
  return given.filter((outputs) => kept.every((name) => name in outputs));
}

export async function plain(url: string): Promise<ArrayBuffer> {
  const fetchFromBundle: typeof fetch = await bundleFetch(url);
  return (await fetchFromBundle("models/model.onnx")).arrayBuffer();
}

export async function mistakes(model: EdgeModel): Promise<void> {
  // @ts-expect-error: no such device
  await EdgeModel.load("/bundle/", { device: "webnn" });
  // @ts-expect-error: models are loaded, not constructed
  new EdgeModel();
  // @ts-expect-error: a tensor needs its dims
  await model.run({ image: { type: "float32", data: new Float32Array(4) } });
  // @ts-expect-error: a file's bytes are no sound
  model.preprocess(new Uint8Array(4));
  // @ts-expect-error: a step is awaited
  model.stream().run({}).frame;
  // @ts-expect-error: what was loaded does not change
  model.variant = "onnx_fp16";
}
