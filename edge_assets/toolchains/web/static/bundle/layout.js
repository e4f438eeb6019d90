/**
 * Models that keep states from step to step, or have their batch elsewhere than first, as the manifest's `layout` says:
 * the same states, and the same places, as every measurement used.
 */

const ARRAYS = {
  float64: Float64Array,
  float32: Float32Array,
  int64: BigInt64Array,
  int32: Int32Array,
  int16: Int16Array,
  int8: Int8Array,
  uint8: Uint8Array,
  bool: Uint8Array,
};

/** States of one stream of steps: zeros at first, then what the step before gave. */
export class States {
  /** @param {import("./loader.js").Layout} layout */
  constructor(layout) {
    this.layout = layout;
    this.reset();
  }

  /** The next step is a first one. */
  reset() {
    this.kept = null;
    this.count = null;
  }

  /**
   * What the model takes in the next step.
   *
   * @template {Record<string, {dims: readonly number[]}>} T
   * @param {T} feeds what it takes besides its states
   */
  next(feeds) {
    const given = Object.keys(this.layout.states).filter((name) => feeds[name]);
    if (given.length) throw new Error(`${given.join(", ")} are states, which the stream itself keeps: leave them out`);
    const count = this.countOf(feeds);
    if (this.kept && count !== this.count) {
      throw new Error(`the step before had ${this.count} samples and this one has ${count}: reset the stream first`);
    }
    this.count = count;
    this.kept ??= zeros(this.layout.states, count);
    return { ...feeds, ...this.kept };
  }

  /** Take the states from what the model gave. */
  keep(outputs) {
    this.kept = Object.fromEntries(Object.entries(this.layout.states).map(([name, { output }]) => [name, outputs[output]]));
  }

  /** How many samples a step has. */
  countOf(feeds) {
    for (const [name, { dims }] of Object.entries(feeds)) {
      const axis = name in this.layout.inputs ? this.layout.inputs[name] : 0;
      if (axis !== null) return dims[axis];
    }
    throw new Error("none of the inputs that were given has a batch, so nothing says how many samples the step has");
  }
}

function zeros(states, count) {
  const made = {};
  for (const [name, { shape, axis, dtype }] of Object.entries(states)) {
    if (!ARRAYS[dtype]) throw new Error(`the state '${name}' is ${dtype}, for which there is no array here`);
    const dims = inserted(shape, axis, count);
    made[name] = { type: dtype, data: new ARRAYS[dtype](product(dims)), dims };
  }
  return made;
}

/**
 * Samples [n, ...] as the model takes them.
 *
 * @param {import("./loader.js").Feeds} feeds
 * @param {import("./loader.js").Layout} layout
 * @returns {import("./loader.js").Feeds}
 */
export function place(feeds, layout) {
  const placed = { ...feeds };
  for (const [name, axis] of Object.entries(layout.inputs)) {
    if (feeds[name]) placed[name] = axis === null ? alone(name, feeds[name]) : moved(feeds[name], axis);
  }
  return placed;
}

/**
 * Sequences [n, steps, ...] as what the model takes in each step, but for its states.
 *
 * @param {import("./loader.js").Feeds} feeds
 * @param {import("./loader.js").Layout} layout
 * @returns {import("./loader.js").Feeds[]}
 */
export function stepsOf(feeds, layout) {
  const steps = [];
  for (const [name, value] of Object.entries(feeds)) {
    const { type, data, dims } = moved(value, 1);
    const [count, ...rest] = dims;
    const size = product(rest);
    for (let step = 0; step < count; step++) {
      steps[step] ??= {};
      steps[step][name] = { type, data: data.slice(step * size, (step + 1) * size), dims: rest };
    }
  }
  return steps.map((step) => place(step, layout));
}

/** The one sample of an input without a batch. */
function alone(name, { type, data, dims }) {
  if (dims[0] !== 1) throw new Error(`the input '${name}' has no batch: give one sample at a time, not ${dims[0]}`);
  return { type, data, dims: dims.slice(1) };
}

/** The first axis behind `axis` others. */
function moved({ type, data, dims }, axis) {
  const [count, ...rest] = dims;
  const outer = product(rest.slice(0, axis));
  const inner = product(rest.slice(axis));
  const values = new data.constructor(data.length);
  for (let sample = 0; sample < count; sample++) {
    for (let place = 0; place < outer; place++) {
      const start = (sample * outer + place) * inner;
      values.set(data.subarray(start, start + inner), (place * count + sample) * inner);
    }
  }
  return { type, data: values, dims: inserted(rest, axis, count) };
}

function inserted(shape, axis, count) {
  return [...shape.slice(0, axis), count, ...shape.slice(axis)];
}

function product(sizes) {
  return sizes.reduce((a, b) => a * b, 1);
}
