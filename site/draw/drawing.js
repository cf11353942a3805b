// One drawing: settings in, a message for everything that is computed on the way out.
//
//     prompt → tokens → text states → noise → (U-Net, guidance, sampler) × steps → latent → image
//
// This is StableDiffusion.text_to_image of Python, as a generator: whoever draws decides after each
// message whether to go on.

import { cleanEstimate, guided } from "./guidance.js";
import { randn, seedBits } from "./noise.js";
import { SAMPLERS } from "./sampling.js";
import { unknownWords } from "./tokenizer.js";

const MOST_STEPS = 100;
const LARGEST_SCALE = 1e6; // float32 holds what a network makes of it

/**
 * What a drawing is made of.
 *
 * @typedef {object} Settings
 * @property {string} prompt
 * @property {string} negative The prompt that guidance leads away from; "" for none.
 * @property {number | bigint | string} seed See `seedBits`.
 * @property {"ddim" | "dpm_pp_2m"} sampler
 * @property {number} steps 1 … 100.
 * @property {number} guidance The guidance scale; 1 is off.
 */

/**
 * Draw.
 *
 * @param {import("./model.js").Model} model
 * @param {Settings} settings
 * @yields {object} Messages of the kinds tokens, states, start, step (one a step) and done, as
 *   described at the head of worker.js.
 * @throws {RangeError} If a setting cannot be used, before anything is computed.
 */
export async function* draw(model, settings) {
  const { prompt, negative, seed, sampler, steps, guidance } = checked(settings);
  const begun = performance.now();
  const { ids, pieces, cut } = model.tokenizer.encode(prompt);
  const unguided = guidance === 1; // then the negative prompt has no influence, as in Python
  const rows = unguided ? [ids] : [model.tokenizer.encode(negative).ids, ids];
  yield { kind: "tokens", pieces, ids, unknown: unknownWords(prompt, model.words), cut };

  const context = await model.encode(rows);
  const { d } = model.config;
  yield { kind: "states", states: context.slice(-ids.length * d), d };

  const { sample, path: pathOf } = SAMPLERS[sampler];
  const path = pathOf(steps, model.alphabar);
  let z = randn(model.latentLength, seed);
  yield { kind: "start", z, times: path.map((point) => point.t) };

  let inside, image; // what the network computed in the step
  const denoise = async (latent, point) => {
    const { eps, attention } = await model.predict(latent, point.t, context);
    const cond = eps.slice(-latent.length); // the unconditional half comes first
    const uncond = unguided ? null : eps.slice(0, latent.length);
    inside = { uncond, cond, attention };
    return cleanEstimate(latent, guided(uncond, cond, guidance), point);
  };
  for await (const state of sample(denoise, z, path)) {
    const { step, point, z_0 } = state;
    z = state.z;
    if (!z.every(Number.isFinite)) {
      throw new RangeError(
        `The latent is not finite after step ${step}: a guidance of ${guidance} is too much.`,
      );
    }
    image = await model.decode(step === steps ? z : z_0);
    yield { kind: "step", step, t: point.t, z, z_0, image, ...inside };
  }
  yield { kind: "done", image, z, seconds: (performance.now() - begun) / 1000 };
}

/** The settings, if they can be drawn. */
function checked({ prompt, negative = "", seed, sampler, steps, guidance }) {
  seedBits(seed);
  if (!Object.hasOwn(SAMPLERS, sampler)) {
    const known = Object.keys(SAMPLERS).join(" and ");
    throw new RangeError(`The sampler is ${sampler}; this page has ${known}.`);
  }
  if (!Number.isInteger(steps) || steps < 1 || steps > MOST_STEPS) {
    throw new RangeError(
      `The number of steps is ${steps}; it must be a whole number from 1 to ${MOST_STEPS}.`,
    );
  }
  if (!Number.isFinite(guidance) || Math.abs(guidance) > LARGEST_SCALE) {
    throw new RangeError(
      `The guidance scale is ${guidance}; it must be a number from -1000000 to 1000000.`,
    );
  }
  return { prompt, negative, seed, sampler, steps, guidance };
}
