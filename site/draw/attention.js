// Attention by word: a map for each token of the prompt, and the chosen one over the image.

import { map, overlay, paint, ramp } from "./pixels.js";
import { plain } from "./words.js";

const $ = (id) => document.getElementById(id);
const percent = (x) => `${(100 * x).toFixed(x < 0.0995 ? 1 : 0)} %`;
const of = (attention, token) => attention.subarray(64 * token, 64 * (token + 1));
const mean = (weights) => weights.reduce((sum, w) => sum + w, 0) / weights.length;

// The largest weight of any token of the prompt, over all steps so far: the top of the scale.
export function top({ frames, pieces }) {
  const tokens = Math.min(pieces.length, 75);
  let most = 0;
  for (const { attention } of frames) {
    for (let i = 64; i < 64 * (tokens + 1); i++) if (attention[i] > most) most = attention[i];
  }
  return most || 1;
}

// The words as one group of radio buttons, each with its map; arrow keys move the choice.
function buttons({ pieces, ids }, choose) {
  const group = $("maps");
  if (group.dataset.of === ids.join()) return;
  group.dataset.of = ids.join();
  group.replaceChildren(...pieces.slice(0, 75).map((piece, i) => {
    const button = document.createElement("button"), canvas = document.createElement("canvas");
    canvas.width = canvas.height = 8;
    canvas.setAttribute("aria-hidden", "true");
    button.type = "button";
    button.setAttribute("role", "radio");
    button.append(canvas, plain(piece));
    button.onclick = () => choose(i + 1);
    button.onkeydown = ({ key }) => {
      const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[key];
      if (!by) return;
      const next = (i + by + group.children.length) % group.children.length;
      choose(next + 1);
      group.children[next].focus();
      return false;
    };
    return button;
  }));
}

export function show(drawing, step, word, choose) {
  if (!drawing.pieces) return;
  buttons(drawing, choose);
  const all = [...$("maps").children], frame = drawing.frames[step - 1];
  all.forEach((button, i) => {
    button.setAttribute("aria-checked", i + 1 === word);
    button.tabIndex = i + 1 === word || (!all[word - 1] && i === 0) ? 0 : -1;
  });
  if (!frame) return;
  if (!drawing.pieces.length) {
    paint($("overlay"), frame.image);
    $("now-attention").textContent = "The prompt is empty, so there is no word to look at.";
    $("overlay").setAttribute("aria-label", "The image; an empty prompt has no attention map.");
    return;
  }
  const limit = drawing.done ? (drawing.top ??= top(drawing)) : top(drawing);
  all.forEach((button, i) => map(button.firstChild, of(frame.attention, i + 1), limit));
  ramp($("legend"));
  $("legend-top").textContent = percent(limit);
  const weights = of(frame.attention, word), name = tokenName(drawing, word);
  overlay($("overlay"), weights, limit, frame.image);
  const most = weights.indexOf(Math.max(...weights));
  const where = `row ${Math.floor(most / 8) + 1}, column ${(most % 8) + 1}`;
  const text = `At step ${step}, “${name}” gets ${percent(mean(weights))} of the attention on average, and most `
    + `in ${where}: ${percent(weights[most])}.`;
  $("now-attention").textContent = text;
  $("overlay").setAttribute("aria-label", `Attention map over the image. ${text}`);
}

export function tokenName({ pieces }, token) {
  return token === 0 ? "start" : plain(pieces[token - 1] ?? "end");
}
