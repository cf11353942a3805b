// The settings of a drawing: what may be typed, and how they travel in a link.

export const SAMPLERS = { ddim: "DDIM", dpm_pp_2m: "DPM-Solver++ 2M" };
export const LAST_SEED = 2 ** 32 - 1; // the generator reads 32 bits
const LONGEST = 500; // characters of a prompt; 77 tokens are fewer

export const DEFAULTS = Object.freeze({
  prompt: "a red cat to the left of a blue house on the sand at night",
  negative: "", seed: 0, sampler: "ddim", steps: 30, guidance: 3,
});
export const NAMES = Object.keys(DEFAULTS);

const WHOLE = /^\+?\d+$/, NUMBER = /^[+-]?(\d+\.?\d*|\.\d+)$/;
const quoted = (text) => (text.length > 30 ? `“${text.slice(0, 30)}…”` : `“${text}”`);

const number = (name, pattern, low, high, accepted) => (text) => {
  const typed = String(text).trim().replace(",", "."), value = Number(typed);
  if (!typed) return { wrong: `${name} is empty; it must be ${accepted}.` };
  if (!pattern.test(typed) || value < low || value > high) {
    return { wrong: `${name} is ${quoted(typed)}; it must be ${accepted}.` };
  }
  return { value };
};
const words = (name) => (text) => {
  const { length } = String(text);
  return length > LONGEST
    ? { wrong: `${name} has ${length} characters; it may have at most ${LONGEST}.` }
    : { value: String(text) };
};

const CHECKS = {
  prompt: words("The prompt"),
  negative: words("The negative prompt"),
  seed: number("The seed", WHOLE, 0, LAST_SEED, `a whole number from 0 to ${LAST_SEED}`),
  steps: number("Steps", WHOLE, 1, 100, "a whole number from 1 to 100"),
  guidance: number("The guidance scale", NUMBER, 0, 20, "a number from 0 to 20"),
  sampler: (text) => (Object.hasOwn(SAMPLERS, text) ? { value: text }
    : { wrong: `The sampler is ${quoted(String(text))}; it must be ${Object.keys(SAMPLERS).join(" or ")}.` }),
};

// What was typed -> { settings, wrong }: checked values, and a sentence for each field that isn't right.
export function check(typed) {
  const settings = {}, wrong = {};
  for (const name of NAMES) {
    const answer = CHECKS[name](typed[name]);
    if (answer.wrong) wrong[name] = answer.wrong;
    else settings[name] = answer.value;
  }
  return { settings, wrong };
}

export const same = (a, b) => NAMES.every((name) => a[name] === b[name]);

// { a, b, step, word } -> what stands after the # of a link; b, step and word may be missing.
export function toLink({ a, b, step, word }) {
  const query = new URLSearchParams();
  for (const name of NAMES) query.set(name, a[name]);
  if (b) for (const name of NAMES) query.set(`b.${name}`, b[name]);
  if (step) query.set("step", step);
  if (word) query.set("word", word);
  return query.toString();
}

// What stands after the # -> the same again, with a sentence in `wrong` for each value that can't be
// used; the default takes its place. null if the link holds no settings.
export function fromLink(hash, defaults = DEFAULTS) {
  const query = new URLSearchParams(hash.replace(/^#/, ""));
  const has = (prefix) => NAMES.some((name) => query.has(prefix + name));
  if (!has("")) return null;
  const wrong = [];
  const read = (prefix, otherwise) => {
    const typed = Object.fromEntries(
      NAMES.map((name) => [name, query.get(prefix + name) ?? otherwise[name]]));
    const found = check(typed);
    wrong.push(...Object.values(found.wrong));
    return { ...otherwise, ...found.settings };
  };
  const a = read("", defaults);
  const b = has("b.") ? read("b.", a) : null;
  const place = (name, high) => {
    const text = query.get(name);
    return text && WHOLE.test(text) && +text >= 1 && +text <= high ? +text : null;
  };
  return { a, b, step: place("step", 100), word: place("word", 76), wrong };
}

// One line for a caption: what a drawing was made with.
export const inWords = ({ seed, sampler, steps, guidance, negative }) =>
  `seed ${seed}, ${steps} ${steps === 1 ? "step" : "steps"} of ${SAMPLERS[sampler]}, guidance ${guidance}`
  + (negative ? `, not “${negative}”` : "");

// The names and values in which B differs from A.
export const changes = (a, b) => NAMES.filter((name) => a[name] !== b[name])
  .map((name) => `${name} ${name === "sampler" ? SAMPLERS[b[name]] : b[name] === "" ? "empty" : b[name]}`);
