// The model, in a thread of its own, so that the page stays responsive while it computes.
//
// The page sends
//   { kind: "draw", id, prompt, negative, seed, sampler, steps, guidance }    see drawing.js
//   { kind: "stop" }        every drawing asked for so far ends, after the step it is in
//
// While it loads, which begins at once, the worker sends
//   { kind: "loading", file, received, total, all: { received, total } }      in bytes
//   { kind: "ready", seconds, config, course }        model/config.json and model/course.json
//
// and for each drawing, one drawing after the other, each message with its id
//   { kind: "tokens", pieces, ids, unknown, cut }    pieces[i] is the text of ids[i + 1], "</w>" at
//       its end if it ends a word; unknown words of the prompt; how many tokens did not fit
//   { kind: "states", states, d }    the prompt's text embeddings, 77 * d
//   { kind: "start", z, times }      the noise, and the timesteps of the path, steps + 1 of them
//   { kind: "step", step, t, z, z_0, image, uncond, cond, attention }    after a step: the latent, the
//       estimate of the clean latent, that estimate decoded (after the last step, the latent
//       itself), the noise predicted without the prompt (null if guidance is off) and with it, and
//       each token's share of the attention, 77 * 64
//   { kind: "done", image, z, seconds }
// or, at its end, { kind: "stopped", step } or { kind: "error", text }, a sentence for the reader.
// An error without a drawing has the id null.

import { missingFeature } from "./browser.js";
import { draw } from "./drawing.js";
import { FileError } from "./files.js";
import { Model } from "./model.js";

const loading = load();
let turn = loading.catch(() => {}); // drawings wait for the model, and for each other
let asked = 0; // drawings so far
let stoppedUpTo = 0; // those that are to end

self.onmessage = ({ data }) => {
  if (data.kind === "stop") {
    stoppedUpTo = asked;
  } else if (data.kind === "draw") {
    const number = ++asked;
    turn = turn.then(() => answer(data, number));
  }
};

async function load() {
  const started = performance.now();
  try {
    const missing = missingFeature();
    if (missing) throw new FileError(missing);
    const report = (progress) => self.postMessage({ kind: "loading", ...progress });
    const model = await Model.load(new URL("./", import.meta.url), report);
    const seconds = (performance.now() - started) / 1000;
    self.postMessage({ kind: "ready", seconds, config: model.config, course: model.course });
    return model;
  } catch (error) {
    self.postMessage({ kind: "error", id: null, text: sentence(error) });
    throw error;
  }
}

async function answer({ id, ...settings }, number) {
  let step = 0;
  try {
    const model = await loading;
    for await (const message of draw(model, settings)) {
      step = message.step ?? step;
      self.postMessage({ ...message, id });
      // A network runs to its end before this thread reads its post: let a "stop" in.
      await new Promise((resolve) => setTimeout(resolve));
      if (number <= stoppedUpTo && message.kind !== "done") {
        self.postMessage({ kind: "stopped", id, step });
        return;
      }
    }
  } catch (error) {
    self.postMessage({ kind: "error", id, text: sentence(error) });
  }
}

/** What went wrong, for the reader. Our own errors are sentences; others come from the browser. */
function sentence(error) {
  if (error instanceof FileError || error instanceof RangeError) return error.message;
  return `The model could not run in this browser: ${error?.message ?? error}`;
}
