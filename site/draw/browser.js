// What the drawing page needs of a browser. The page asks before it starts the worker.

// A WebAssembly module of a few bytes with one SIMD instruction: i32.const 0, i8x16.splat,
// i8x16.popcnt.
const SIMD = Uint8Array.of(
  0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15,
  253, 98, 11,
);

/**
 * What this browser lacks in order to draw.
 *
 * @returns {string | null} A sentence for the reader; null if nothing is missing.
 */
export function missingFeature() {
  const advice = "A current Firefox, Chrome, Edge or Safari can draw here.";
  if (typeof WebAssembly !== "object" || !WebAssembly.validate(SIMD)) {
    return `This browser has no WebAssembly with SIMD, which the model needs. ${advice}`;
  }
  if (!moduleWorkers()) {
    return `This browser cannot run a module in a worker, which the model needs. ${advice}`;
  }
  return null;
}

/** Whether `new Worker` reads its option `type`. A browser that does not ignores all options. */
function moduleWorkers() {
  if (typeof Worker !== "function") return typeof document === "undefined"; // inside a worker
  let read = false;
  const options = { get type() { read = true; return "module"; } };
  try {
    new Worker("data:,", options).terminate();
  } catch {
    // Some browsers refuse the address, but not before they have read the options.
  }
  return read;
}
