// The initial noise: the same standard normals as torch.randn on the CPU.
//
// A page that drew its own random numbers could make images as good, but never the image that a
// notebook shows. From the same noise, the same seed gives the same image here and in Python.
//
// torch draws in two stages. The Mersenne twister turns a seed into random integers, and the
// Box-Muller transform turns pairs of uniform numbers into pairs of normals.

const WORDS = 624; // of 32 bits, the state of the twister
const LAST_SEED = 2n ** 63n - 1n;

/**
 * A seed as torch uses it. torch takes up to 63 bits and starts the twister with the lowest 32.
 *
 * @param {number | bigint | string} seed A whole number in 0 … 2^63 - 1. Above 2^53, where a
 *   JavaScript number skips integers, give a bigint or its digits.
 * @returns {number} The lowest 32 bits.
 * @throws {RangeError} For anything else.
 */
export function seedBits(seed) {
  const safe = typeof seed === "number" ? Number.isSafeInteger(seed) : /^\d+$/.test(seed);
  const whole = safe ? BigInt(seed) : -1n;
  if (whole < 0n || whole > LAST_SEED) {
    throw new RangeError(`The seed is ${seed}; it must be a whole number from 0 to 2^63 - 1.`);
  }
  return Number(whole & 0xffffffffn);
}

/**
 * The Mersenne twister MT19937 (Matsumoto and Nishimura 1998).
 *
 * @param {number} seed 32 bits.
 * @yields {number} Random integers of 32 bits, without end.
 */
export function* mersenneTwister(seed) {
  const state = new Uint32Array(WORDS);
  state[0] = seed;
  for (let i = 1; i < WORDS; i++) {
    // Math.imul multiplies as 32-bit hardware does; a product of doubles would lose the low bits.
    state[i] = Math.imul(1812433253, state[i - 1] ^ (state[i - 1] >>> 30)) + i;
  }
  for (;;) {
    // Each word is replaced by a mixture of itself, the next one and the one 397 places on.
    for (let i = 0; i < WORDS; i++) {
      const joined = (state[i] & 0x80000000) | (state[(i + 1) % WORDS] & 0x7fffffff);
      const twist = joined & 1 ? 0x9908b0df : 0;
      state[i] = state[(i + 397) % WORDS] ^ (joined >>> 1) ^ twist;
    }
    // "Tempering" spreads the bits of each word before it is given out.
    for (let word of state) {
      word ^= word >>> 11;
      word ^= (word << 7) & 0x9d2c5680;
      word ^= (word << 15) & 0xefc60000;
      word ^= word >>> 18;
      yield word >>> 0; // unsigned
    }
  }
}

const TWO_PI = Math.fround(2 * Math.PI); // torch computes in float32

/**
 * torch.randn(n, generator=torch.Generator().manual_seed(seed)), up to rounding in float32.
 *
 * @param {number} n How many: a multiple of 16, because torch fills blocks of 16.
 * @param {number | bigint | string} seed See `seedBits`.
 * @returns {Float32Array} n standard normals.
 * @throws {RangeError} For another n, or another seed.
 */
export function randn(n, seed) {
  if (!(n > 0) || n % 16) {
    throw new RangeError(`n is ${n}; it must be a multiple of 16.`);
  }
  const integers = mersenneTwister(seedBits(seed));
  // A float32 has 24 significant bits, so torch uses only the lowest 24 of each integer.
  const uniform = () => (integers.next().value & 0xffffff) / 2 ** 24; // in [0, 1)
  const x = Float32Array.from({ length: n }, uniform);
  for (let block = 0; block < n; block += 16) {
    // Box and Muller (1958): of each block, the first half gives radii and the second half angles.
    for (let i = block; i < block + 8; i++) {
      const radius = Math.sqrt(-2 * Math.log(1 - x[i])); // 1 - x is never 0
      const angle = Math.fround(TWO_PI * x[i + 8]);
      x[i] = radius * Math.cos(angle);
      x[i + 8] = radius * Math.sin(angle);
    }
  }
  return x;
}
