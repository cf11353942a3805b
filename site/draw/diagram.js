// The pipeline's boxes: each shows what it holds at one step of one drawing.

import { channels, clear, columns, paint, ramp, shown, spread } from "./pixels.js";
import { plain } from "./words.js";

const $ = (id) => document.getElementById(id);
const say = (id, text) => $(id).textContent !== text && ($(id).textContent = text);
const narrow = matchMedia("(max-width: 46rem)"); // as in style.css
const label = (id, text) => $(id).setAttribute("aria-label", text);

// Boxes open and close; the explanation lies after its box, and below all of them on a wide page.
export function openable() {
  ramp($("scale"));
  const buttons = [...document.querySelectorAll(".box h3 button")];
  const set = (button, open) => {
    button.setAttribute("aria-expanded", open);
    $(button.getAttribute("aria-controls")).hidden = !open;
    button.closest(".box").classList.toggle("open", open);
  };
  const shut = () => buttons.forEach((each) => set(each, false));
  for (const button of buttons) {
    const box = button.closest(".box");
    const turn = () => {
      const open = button.getAttribute("aria-expanded") !== "true";
      shut(); // one at a time
      set(button, open);
    };
    button.onclick = turn;
    box.addEventListener("click", (event) => event.target.closest("button, a, input") || turn());
    for (const part of [box, $(button.getAttribute("aria-controls"))]) {
      part.addEventListener("keydown", (event) => {
        if (event.key === "Escape") set(button, false), button.focus();
      });
    }
  }
}

// Which boxes are at work: "tokens", "states", "noise", "loop", or "" for none.
export function working(stage) {
  const at = { tokens: ["tokens"], states: ["states"], noise: ["noise"], loop: ["unet", "latent"] }[stage] ?? [];
  $("pipeline").dataset.stage = stage;
  for (const box of document.querySelectorAll(".box")) box.classList.toggle("busy", at.includes(box.dataset.box));
}

export function empty() {
  for (const id of ["noise", "states", "uncond", "cond", "difference", "latent"]) clear($(id));
}

// drawing: what the worker said so far. step: 1 … or 0 before the first. word: a token, or null.
export function show(drawing, step, word, choose) {
  tokens(drawing, word, choose);
  states(drawing, word);
  noise(drawing);
  const frame = drawing.frames[step - 1];
  loop(drawing, frame, step);
  latent(drawing, frame);
  image(drawing, frame, step);
}

function tokens({ pieces, ids, cut }, word, choose) {
  const list = $("pieces");
  if (!pieces) return;
  if (list.dataset.of !== ids.join()) {
    list.dataset.of = ids.join();
    const all = ["start", ...pieces.slice(0, 75).map(plain), "end"];
    list.replaceChildren(...all.map((piece, i) => {
      const item = document.createElement("li"), button = document.createElement("button");
      const text = document.createElement("span"), id = document.createElement("small");
      button.type = "button";
      text.textContent = piece;
      id.textContent = ids[i];
      button.className = i === 0 || i === all.length - 1 ? "mark" : "";
      button.setAttribute("aria-label", `${piece}, token ${i}, number ${ids[i]}`);
      button.append(text, id);
      button.onclick = () => choose(i);
      item.append(button);
      return item;
    }));
  }
  [...list.children].forEach(({ firstChild }, i) => firstChild.setAttribute("aria-pressed", i === word));
  const used = Math.min(pieces.length, 75) + 2;
  say("now-tokens", cut
    ? `${cut} ${cut === 1 ? "token" : "tokens"} did not fit into 77 and were cut off.`
    : `${used} tokens + ${77 - used} of padding = 77`);
}

function states({ states: values, d, pieces }, word) {
  if (!values) return;
  if ($("states").of !== values) columns($("states"), values, d), ($("states").of = values);
  const of = word ?? 0, name = of === 0 ? "start" : plain(pieces[of - 1] ?? "end");
  const first = [...values.slice(of * d, of * d + 3)].map((v) => shown(v)).join("  ");
  $("framed").style.setProperty("--token", of);
  say("now-states", `${name}: ${first} … (${d} values)`);
  label("states", `Heat map of the text states, 77 tokens across and ${d} values down. The first values of “${name}” are ${first}.`);
}

function noise({ start, settings }) {
  if (!start) return;
  if ($("noise").of !== start) channels($("noise"), start, "row"), ($("noise").of = start);
  const { mean, std } = spread(start);
  say("now-noise", `seed ${settings.seed} · 256 values, mean ${shown(mean)}, std ${shown(std)}`);
  label("noise", `The starting noise of seed ${settings.seed}: four channels of 8 by 8, mean ${shown(mean)}, standard deviation ${shown(std)}.`);
}

function loop({ settings, times }, frame, step) {
  const { steps, guidance, negative } = settings;
  say("now-step", frame ? String(step) : "–");
  say("now-of", `of ${steps}`);
  say("loop-label", `repeated ${steps === 1 ? "once" : `${steps} times`}`);
  say("uncond-name", negative ? "negative" : "empty");
  $("clock").style.setProperty("--t", frame ? times[step - 1] / 999 : 0);
  if (!frame) return;
  say("now-time", `timestep t = ${Math.round(times[step - 1])} of 999`);
  const { uncond, cond } = frame;
  const both = Boolean(cond && uncond);
  $("cond").closest(".runs").hidden = !cond;
  for (const id of ["uncond", "difference"]) $(id).parentElement.style.visibility = both ? "" : "hidden";
  if (cond) channels($("cond"), cond, "square");
  if (both) {
    const gap = cond.map((v, i) => v - uncond[i]);
    const most = Math.max(...gap.map(Math.abs)) || 1;
    channels($("uncond"), uncond, "square");
    channels($("difference"), gap, "square", most);
    const size = spread(gap).std;
    label("uncond", `Noise predicted with the ${negative ? "negative" : "empty"} prompt at step ${step}, standard deviation ${shown(spread(uncond).std)}.`);
    label("difference", `The difference of the two predictions, standard deviation ${shown(size)}, scale up to ${shown(most)}.`);
  }
  if (cond) {
    label("cond", `Noise predicted with the prompt at step ${step}, standard deviation ${shown(spread(cond).std)}.`);
  }
  say("now-guidance", guidance === 1
    ? "scale 1 is off: one run, with the prompt"
    : guidance === 0 ? `scale 0: the prediction ${negative ? "of the negative prompt" : "without a prompt"}`
      : `${negative ? "negative" : "empty"} + ${guidance} × difference`);
}

function latent({ start }, frame) {
  const z = frame?.z ?? start;
  if (!z) return;
  channels($("latent"), z, narrow.matches ? "row" : "column");
  const { std } = spread(z);
  say("now-latent", `std ${shown(std)}`);
  label("latent", `The latent ${frame ? `after step ${frame.step}` : "before the first step"}: four channels of 8 by 8, standard deviation ${shown(std)}.`);
}

function image({ settings, start }, frame, step) {
  if (!frame) {
    if (start) clear($("image")), label("image", "No image yet: the latent is pure noise."), say("now-image", "Pure noise so far.");
    return;
  }
  paint($("image"), frame.image);
  const last = step === settings.steps;
  say("now-image", last ? "The image, decoded from the latent."
    : `Estimate of the image at step ${step}.`);
  label("image", `${last ? "The image" : `The estimate of the image at step ${step}`} for the prompt “${settings.prompt}”.`);
}
