import { RetortError } from "./error.js";
import { Kept } from "./file.js";

// onnxruntime-web: one thread, SIMD. Its files are checked before they run.

const MODULE = "ort.wasm.bundle.min.mjs";
const WASM = "ort-wasm-simd-threaded.wasm";

export class Runtime {
  /** folder: where the files are. version: that they must be. files: name -> {sha256, size}. */
  static async open(folder, { version, files }) {
    const kept = await Kept.open(folder, version);
    let wasm;
    try {
      [wasm] = await Promise.all([WASM, MODULE].map((name) => kept.read(name, files[name], "runtime")));
    } catch (error) {
      if (error.code === "runtime") error.message += `; onnxruntime-web ${version} belongs into ${folder.href}`;
      throw error;
    }
    await kept.forgetOthers();
    const ort = await import(new URL(MODULE, folder).href);
    if (ort.env.versions.web !== version) {
      throw new RetortError("runtime", `onnxruntime-web ${ort.env.versions.web} is loaded, ${version} is needed`);
    }
    ort.env.wasm.numThreads = 1;
    ort.env.wasm.wasmBinary ??= wasm.buffer;
    return new Runtime(ort);
  }

  constructor(ort) {
    this.ort = ort;
  }

  /** Return a session of an ONNX model. name: what to call it in messages. */
  async load(model, name) {
    try {
      const options = { executionProviders: ["wasm"], executionMode: "sequential", logSeverityLevel: 3 };
      const session = await this.ort.InferenceSession.create(model, options);
      this.ort.env.wasm.wasmBinary = undefined; // compiled by now: 14 MB less
      return session;
    } catch (error) {
      throw new RetortError("model", `${name}: onnxruntime refuses it: ${String(error.message).split("\n")[0]}`);
    }
  }

  /** Run a session; return one output's values. inputs: name -> [type, values, shape]. */
  async run(session, output, inputs) {
    const feeds = Object.entries(inputs).map(([name, given]) => [name, new this.ort.Tensor(...given)]);
    try {
      return (await session.run(Object.fromEntries(feeds)))[output].data;
    } catch (error) {
      throw new RetortError("model", `onnxruntime failed: ${String(error.message).split("\n")[0]}`);
    }
  }
}
