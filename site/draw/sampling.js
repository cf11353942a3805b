// The noise schedule and two samplers, as in sdlearn/schedule.py and sdlearn/samplers.py.
//
// A latent at timestep t is z = alpha z_0 + sigma eps, with alpha² + sigma² = 1. A path is the
// list of points that a sampler visits, from almost pure noise to almost none, or none. A sampler
// is a generator: it asks a denoiser for its estimate of the clean latent z_0, steps to the next
// point, and yields the state that it reached.

/**
 * A point of a path.
 * @typedef {{t: number, alpha: number, sigma: number}} Point
 */

/**
 * The state of a sampler after a step: the point it reached, the latent there, and the estimate of
 * the clean latent that the step was made with.
 * @typedef {{step: number, point: Point, z: Float32Array, z_0: Float32Array}} State
 */

/**
 * (z, point) -> the estimate of the clean latent.
 * @typedef {(z: Float32Array, point: Point) => Promise<Float32Array> | Float32Array} Denoiser
 */

/**
 * alphabar_t, the signal's share of the variance at each timestep ("scaled_linear": the betas are
 * evenly spaced in their square roots).
 *
 * @param {{num_steps: number, beta_start: number, beta_end: number}} schedule
 * @returns {Float64Array}
 */
export function alphabars({ num_steps, beta_start, beta_end }) {
  const [first, last] = [Math.sqrt(beta_start), Math.sqrt(beta_end)];
  let alphabar = 1;
  return Float64Array.from({ length: num_steps }, (_, t) => {
    const beta = (first + (t / (num_steps - 1)) * (last - first)) ** 2;
    return (alphabar *= 1 - beta);
  });
}

/**
 * DDIM's path: every so many timesteps, counted up from 1 ("leading" spacing). It ends at t = 0,
 * the smallest noise that the network was trained on, as Stable Diffusion's published DDIM does.
 *
 * @param {number} steps 1 … 500; above that, Python's path ends elsewhere.
 * @param {Float64Array} alphabar
 * @returns {Point[]} steps + 1 points.
 */
export function evenTimesteps(steps, alphabar) {
  const stride = Math.floor(alphabar.length / steps);
  const first = Math.min(1, alphabar.length - 1 - (steps - 1) * stride);
  const times = Array.from({ length: steps }, (_, i) => first + (steps - 1 - i) * stride);
  return [...times, 0].map((t) => ({
    t, alpha: Math.sqrt(alphabar[t]), sigma: Math.sqrt(1 - alphabar[t]),
  }));
}

/**
 * DPM-Solver++'s path: evenly spaced in lambda = log(alpha / sigma) from the noisiest timestep to
 * the cleanest, and then to no noise at all, which is written t = -1.
 *
 * @param {number} steps At least 1.
 * @param {Float64Array} alphabar
 * @returns {Point[]} steps + 1 points.
 */
export function evenLambdas(steps, alphabar) {
  const lambdas = Array.from(alphabar, (each) => Math.log(each / (1 - each)) / 2); // falls with t
  const [noisiest, cleanest] = [lambdas[lambdas.length - 1], lambdas[0]];
  const points = Array.from({ length: steps }, (_, i) => {
    const lambda = noisiest + (steps > 1 ? i / (steps - 1) : 0) * (cleanest - noisiest);
    const alpha = 1 / Math.sqrt(1 + Math.exp(-2 * lambda));
    return { t: timestepAt(lambda, lambdas), alpha, sigma: alpha * Math.exp(-lambda) };
  });
  return [...points, { t: -1, alpha: 1, sigma: 0 }];
}

/** The whole timestep nearest to a lambda: the network takes timesteps, not noise levels. */
function timestepAt(lambda, lambdas) {
  const after = lambdas.findIndex((each) => each < lambda);
  if (after < 1) return after < 0 ? lambdas.length - 1 : 0; // at an end of the table
  const share = (lambdas[after - 1] - lambda) / (lambdas[after - 1] - lambdas[after]);
  return Math.round(after - 1 + share);
}

/**
 * Denoising diffusion implicit models (Song et al. 2021, eq. 12) without fresh noise: keep the
 * estimate and the noise that the denoiser predicts, and mix them for the next noise level.
 *
 * @param {Denoiser} denoise
 * @param {Float32Array} z The initial noise.
 * @param {Point[]} path
 * @yields {State} After each step.
 */
export async function* ddim(denoise, z, path) {
  for (let step = 1; step < path.length; step++) {
    const [here, there] = [path[step - 1], path[step]];
    const z_0 = await denoise(z, here);
    z = stepTo(there, z, z_0, here);
    yield { step, point: there, z, z_0 };
  }
}

/**
 * DPM-Solver++ of order 2, multistep (Lu et al. 2022, algorithm 2): DDIM with z_0 extrapolated,
 * from its last two values, to the middle of the step in lambda. The first step has no earlier
 * value, and a step to no noise at all has no middle; both are steps of DDIM.
 *
 * @param {Denoiser} denoise
 * @param {Float32Array} z The initial noise.
 * @param {Point[]} path
 * @yields {State} After each step.
 */
export async function* dpm_pp_2m(denoise, z, path) {
  const lambda = (k) => Math.log(path[k].alpha / path[k].sigma);
  let previous = null;
  for (let step = 1; step < path.length; step++) {
    const [here, there] = [path[step - 1], path[step]];
    const z_0 = await denoise(z, here);
    let middle = z_0;
    if (previous && there.sigma > 0) {
      const earlier = previous;
      const ratio = (lambda(step) - lambda(step - 1)) / (lambda(step - 1) - lambda(step - 2));
      middle = z_0.map((each, i) => each + (ratio / 2) * (each - earlier[i]));
    }
    previous = z_0;
    z = stepTo(there, z, middle, here);
    yield { step, point: there, z, z_0 };
  }
}

/** alpha z_0 + sigma eps at the point `there`, with the eps that is in z at the point `here`. */
function stepTo(there, z, z_0, here) {
  return z.map((each, i) => {
    const eps = (each - here.alpha * z_0[i]) / here.sigma;
    return there.alpha * z_0[i] + there.sigma * eps;
  });
}

/** The samplers by name, each with the path that it needs. */
export const SAMPLERS = {
  ddim: { sample: ddim, path: evenTimesteps },
  dpm_pp_2m: { sample: dpm_pp_2m, path: evenLambdas },
};
