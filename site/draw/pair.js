// Two drawings side by side, at the same place of their ways, and how much they differ.

import { clear, difference, paint } from "./pixels.js";
import { changes, inWords } from "./settings.js";

const $ = (id) => document.getElementById(id);
const say = (id, caption, text) => {
  $(id).setAttribute("aria-label", text);
  $(id).parentElement.querySelector("figcaption span").textContent = caption;
};

// The step of one drawing at which it is as far as another at `step`.
export const alongside = (step, steps, other) => Math.max(1, Math.round((step / steps) * other));

function one(id, name, drawing, step) {
  const frame = drawing?.frames[step - 1];
  if (!frame) {
    clear($(id));
    say(id, drawing ? "not drawn yet" : "", `${name}: no image yet`);
    return null;
  }
  const at = `step ${step} of ${drawing.settings.steps}`;
  paint($(id), frame.image);
  say(id, `${inWords(drawing.settings)}; ${at}`, `${name}: “${drawing.settings.prompt}”, ${inWords(drawing.settings)}, ${at}`);
  return frame.image;
}

export function show(a, b, stepA, stepB) {
  const left = one("pair-a", "A", a, stepA), right = one("pair-b", "B", b, stepB);
  if (!left || !right) {
    clear($("pair-d"));
    say("pair-d", "", "Difference: B is not drawn yet");
    $("pair-says").textContent = "Change any setting of B, then draw. A is drawn first, then B.";
    return;
  }
  const { mean, most } = difference($("pair-d"), left, right);
  const text = `On average they differ by ${mean.toFixed(1)} of 255 grey levels, at most by ${most}`;
  say("pair-d", `mean ${mean.toFixed(1)} of 255 grey levels, at most ${most}`, `${text}.`);
  const changed = changes(a.settings, b.settings);
  $("pair-says").textContent = changed.length
    ? `B has ${changed.join(", ")}. ${text}.`
    : `A and B have the same settings. ${text}.`;
}
