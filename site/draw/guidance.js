// From a U-Net to a denoiser, as in sdlearn/guidance.py.
//
// Classifier-free guidance (Ho and Salimans 2022) evaluates the network with the prompt and without
// it, or with a negative prompt in its place, and extrapolates along the difference:
//
//     eps = uncond + scale * (cond - uncond)

/**
 * The estimate of the clean latent from the predicted noise: z = alpha z_0 + sigma eps, solved
 * for z_0.
 *
 * @param {Float32Array} z
 * @param {Float32Array} eps
 * @param {import("./sampling.js").Point} point
 * @returns {Float32Array}
 */
export function cleanEstimate(z, eps, { alpha, sigma }) {
  return z.map((each, i) => (each - sigma * eps[i]) / alpha);
}

/**
 * The guided noise.
 *
 * @param {Float32Array | null} uncond The noise predicted without the prompt. At scale 1 it has no
 *   influence, so it need not be computed and may be null.
 * @param {Float32Array} cond The noise predicted with the prompt.
 * @param {number} scale The guidance scale; 1 is off.
 * @returns {Float32Array}
 */
export function guided(uncond, cond, scale) {
  if (scale === 1) return cond;
  return cond.map((each, i) => uncond[i] + scale * (each - uncond[i]));
}
