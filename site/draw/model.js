// The model: its files loaded, and its three networks as functions of arrays.
//
// The networks are ONNX graphs, which onnxruntime-web runs in WebAssembly, on one thread. More
// threads need two headers that a plain file server does not send, and a model as small as this
// one is no faster with them.

import { download, downloadJson, importModule, moduleUrl } from "./files.js";
import { alphabars } from "./sampling.js";
import { Tokenizer } from "./tokenizer.js";

// The library, the loader of its WebAssembly, and that itself: of onnxruntime-web 1.30.0, the
// version that package.json names.
const RUNTIME = {
  "ort.wasm.min.mjs": { bytes: 50_126 },
  "ort-wasm-simd-threaded.mjs": { bytes: 24_381 },
  "ort-wasm-simd-threaded.wasm": { bytes: 14_239_897 },
};
const NETWORKS = ["text", "unet", "decoder"];

/** The storybook model, as StableDiffusion in Python. Make it with `Model.load`. */
export class Model {
  /**
   * Load every file and start the networks.
   *
   * @param {URL} folder The folder that has model/ and ort/.
   * @param {(progress: {file: string, received: number, total: number, all:
   *   {received: number, total: number}}) => void} report Called for each part that arrives, with
   *   the bytes of one file, and of all of them together.
   * @returns {Promise<Model>}
   * @throws {import("./files.js").FileError} If a file is missing or damaged.
   */
  static async load(folder, report) {
    const place = (name) => new URL(`model/${name}`, folder);
    const config = await downloadJson(place("config.json"));
    const progress = totalProgress(config.files, report);
    const file = (name) => download(place(name), config.files[name], progress(name));

    // One after the other, so that the report tells of one file at a time.
    const course = JSON.parse(new TextDecoder().decode(await file("course.json")));
    const vocabulary = JSON.parse(new TextDecoder().decode(await file("vocab.json")));
    const merges = new TextDecoder().decode(await file("merges.txt"));
    const ort = await startRuntime(folder, progress);
    const sessions = {};
    for (const name of NETWORKS) {
      sessions[name] = await ort.InferenceSession.create(await file(`${name}.onnx`), {
        executionProviders: ["wasm"],
        graphOptimizationLevel: "all",
      });
    }
    return new Model(config, course, new Tokenizer(vocabulary, merges), ort, sessions);
  }

  constructor(config, course, tokenizer, ort, sessions) {
    Object.assign(this, { config, course, tokenizer, ort, sessions });
    this.words = new Set(course.words);
    this.alphabar = alphabars(config.schedule);
    const { latent_channels: c, latent_size: side } = config;
    this.latentShape = [c, side, side];
  }

  /** How many values a latent has. */
  get latentLength() {
    return this.latentShape.reduce((product, each) => product * each);
  }

  /**
   * The text encoder.
   *
   * @param {number[][]} ids The token ids of b prompts, 77 each.
   * @returns {Promise<Float32Array>} Their embeddings, b * 77 * d values.
   */
  async encode(ids) {
    const input = this.tensor("int32", Int32Array.from(ids.flat()), [ids.length, ids[0].length]);
    return (await this.sessions.text.run({ ids: input })).states.data;
  }

  /**
   * The U-Net.
   *
   * @param {Float32Array} z One latent, which every row of the context is evaluated with.
   * @param {number} t The timestep.
   * @param {Float32Array} context Embeddings of b prompts.
   * @returns {Promise<{eps: Float32Array, attention: Float32Array}>} The noise that the network
   *   predicts with each prompt, b * 256 values, and for the last prompt each token's share of the
   *   attention at each position, 77 * 64 values.
   */
  async predict(z, t, context) {
    const { d } = this.config;
    const rows = context.length / (77 * d);
    const zs = Float32Array.from({ length: rows * z.length }, (_, i) => z[i % z.length]);
    const { eps, maps } = await this.sessions.unet.run({
      z: this.tensor("float32", zs, [rows, ...this.latentShape]),
      t: this.tensor("float32", new Float32Array(rows).fill(t), [rows]),
      context: this.tensor("float32", context, [rows, 77, d]),
    });
    const map = maps.data.length / rows;
    return { eps: eps.data, attention: maps.data.slice(-map) };
  }

  /**
   * The decoder.
   *
   * @param {Float32Array} z A clean latent.
   * @returns {Promise<{rgba: Uint8ClampedArray, width: number, height: number}>}
   */
  async decode(z) {
    const { image } = await this.sessions.decoder.run({
      z: this.tensor("float32", z, [1, ...this.latentShape]),
    });
    const [, channels, height, width] = image.dims;
    const pixels = height * width;
    const rgba = new Uint8ClampedArray(4 * pixels).fill(255);
    for (let i = 0; i < pixels; i++) {
      for (let c = 0; c < channels; c++) {
        // In float32 as torch does; the array rounds halves to even, as torch.round does.
        const value = Math.fround(image.data[c * pixels + i] + 1);
        rgba[4 * i + c] = Math.fround(value * 127.5);
      }
    }
    return { rgba, width, height };
  }

  tensor(type, data, shape) {
    return new this.ort.Tensor(type, data, shape);
  }
}

/** onnxruntime-web, from this website and not from the network that its makers use. */
async function startRuntime(folder, progress) {
  const contents = [];
  for (const [name, expected] of Object.entries(RUNTIME)) {
    contents.push(await download(new URL(`ort/${name}`, folder), expected, progress(name)));
  }
  const [library, loader, binary] = contents;
  const ort = await importModule(library);
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmPaths = { mjs: moduleUrl(loader) };
  ort.env.wasm.wasmBinary = binary;
  return ort;
}

/** For each file a function that adds its bytes to those of all files, and reports both. */
function totalProgress(files, report) {
  const sizes = Object.values({ ...files, ...RUNTIME }).map((file) => file.bytes);
  const total = sizes.reduce((sum, each) => sum + each, 0);
  const received = new Map();
  return (file) => (bytes, ofFile) => {
    received.set(file, bytes);
    const all = [...received.values()].reduce((sum, each) => sum + each, 0);
    report({ file, received: bytes, total: ofFile, all: { received: all, total } });
  };
}
