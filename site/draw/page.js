// The drawing page: the form and the worker's messages in, everything on the page out.

import * as attention from "./attention.js";
import { missingFeature } from "./browser.js";
import { Fields, aboutUnknown, copyOf, fillHelp, insertWords, unknownWords } from "./controls.js";
import * as diagram from "./diagram.js";
import { film } from "./film.js";
import * as pair from "./pair.js";
import { entries, png } from "./png.js";
import { DEFAULTS, fromLink, same, toLink } from "./settings.js";
import { theme } from "./theme.js";
import { wires } from "./wires.js";
import { firstNoun, plain } from "./words.js";

const $ = (id) => document.getElementById(id);

// ---------------------------------------------------------------------------------- what there is

let config = {}, known = null, objects = [], nouns = [];
let ready = false, failed = "", count = 0;
const queue = []; // the drawings to do, "a" or "b"
let current = null; // the drawing that the worker is doing
const drawings = { a: null, b: null };
const view = { which: "a", step: null, word: null }; // step null: the newest
let linkNote = ""; // what is wrong with the link
let wanted = {}; // step and word of a link, until its drawing is there

copyOf($("a"), $("b"));
const fields = { a: new Fields($("a"), changed), b: new Fields($("b"), changed) };
const reel = film((step) => ((view.step = step), show(), remember()));
let lastPrompt = fields.a.inputs.prompt;
const comparing = () => !$("b").hidden;

// ----------------------------------------------------------------------------------------- showing

function show() {
  const drawing = drawings[view.which];
  if (!drawing) return;
  const step = Math.min(view.step ?? Infinity, drawing.frames.length);
  diagram.show(drawing, step, view.word, choose);
  attention.show(drawing, step, view.word, choose);
  reel.show(drawing, step);
  $("save").disabled = !drawing.done;
  for (const radio of $("of").children) {
    const on = radio.dataset.show === view.which;
    radio.setAttribute("aria-checked", on);
    radio.tabIndex = on ? 0 : -1;
    radio.disabled = !drawings[radio.dataset.show];
  }
  if (!comparing()) return;
  const { steps } = drawing.settings, at = {};
  for (const which of ["a", "b"]) {
    const other = drawings[which];
    at[which] = other ? pair.alongside(step, steps, other.settings.steps) : 0;
  }
  pair.show(drawings.a, drawings.b, at.a, at.b);
}

function choose(word) {
  view.word = word;
  show();
  remember();
}

function tell(text, bad = false) {
  $("status").textContent = text;
  $("status").classList.toggle("bad", bad);
}

// The address holds all settings, a moment after the last change (browsers limit how often).
let later = null;
function remember() {
  clearTimeout(later);
  later = setTimeout(() => {
    const link = address();
    if (link) history.replaceState(null, "", `#${link}`);
  }, 250);
}
function address() {
  const a = fields.a.check(), b = comparing() ? fields.b.check() : null;
  if (!a) return null;
  const drawing = drawings[view.which], step = view.step ?? wanted.step;
  const last = drawing && step === drawing.settings.steps;
  return toLink({ a, b, step: last ? null : step, word: view.word ?? wanted.word });
}

// ---------------------------------------------------------------------------------------- drawing

function changed(drawNow = false) {
  explainWords();
  remember();
  if (drawNow === true && ready) start();
}

function explainWords() {
  for (const [which, each] of Object.entries(fields)) {
    for (const name of ["prompt", "negative"]) {
      const unknown = known ? unknownWords(each.inputs[name].value, known) : [];
      const link = which === "a" && name === "prompt" ? linkNote : "";
      each.note(name, `${link} ${aboutUnknown(unknown, known, objects)}`.trim());
    }
  }
}

function start() {
  const order = comparing() ? ["a", "b"] : ["a"];
  const bad = order.find((which) => !fields[which].check());
  if (bad) {
    fields[bad].firstWrong().focus();
    return tell("Nothing is drawn yet: a setting needs another value.", true);
  }
  if (failed) return tell(failed, true);
  reel.stop();
  queue.splice(0, queue.length, ...order.map((which) => ({ which, settings: fields[which].check() })));
  if (!ready) return tell("Your picture is drawn as soon as the model is loaded.");
  if (current) worker.postMessage({ kind: "stop" });
  else next();
}

function next() {
  const job = queue.shift();
  busy(Boolean(job));
  if (!job) return;
  const { which, settings } = job;
  const before = drawings[which];
  if (which === "a" && comparing() && before && before.done && same(before.settings, settings)) {
    return next(); // A hasn't changed, so only B is drawn
  }
  current = { id: ++count, which, settings, frames: [] };
  drawings[which] = current;
  if (which === "a" && !comparing()) drawings.b = null;
  view.which = which;
  view.step = null;
  const label = comparing() ? ` ${which.toUpperCase()}` : "";
  tell(`Drawing${label}: ${settings.steps} ${settings.steps === 1 ? "step" : "steps"} …`);
  worker.postMessage({ kind: "draw", id: current.id, ...settings });
}

// Draw and Stop take each other's place, and the focus if it was on the other.
function busy(is) {
  const [now, before] = is ? [$("stop"), $("draw")] : [$("draw"), $("stop")];
  const focused = document.activeElement === before;
  now.hidden = false;
  before.hidden = true;
  if (focused) now.focus({ preventScroll: true });
}

function finish(text) {
  current = null;
  diagram.working("");
  if (queue.length) return next();
  busy(false);
  if (comparing() && drawings.a?.frames.length) view.which = "a";
  if (wanted.step) view.step = wanted.step;
  wanted = {};
  tell(text);
  show();
  remember();
}

const FILES = {
  "text.onnx": "the text encoder", "unet.onnx": "the U-Net", "decoder.onnx": "the decoder",
  "vocab.json": "the vocabulary", "merges.txt": "the vocabulary", "course.json": "the words it knows",
};
const on = {
  loading({ file, received, total, all = { received, total } }) {
    $("bar").max = all.total || 1;
    $("bar").value = all.received;
    const what = FILES[file.split("/").at(-1)] ?? "the runtime";
    const megabytes = all.total ? `, ${(all.total / 1e6).toFixed(0)} MB in all` : "";
    const then = queue.length ? " Your picture is drawn then." : "";
    const text = `Loading ${what}${megabytes}.${then}`;
    if ($("status").textContent !== text) tell(text); // once a file, for those who listen
  },
  ready(message) {
    ready = true;
    $("bar").hidden = true;
    config = message.config ?? {};
    learn(message.course ?? {});
    tell(`The model is ready, after ${message.seconds.toFixed(1)} s.`);
    if (queue.length) next();
    else start(); // the page opens with a picture
  },
  tokens(message) {
    Object.assign(current, { pieces: message.pieces, ids: message.ids, cut: message.cut });
    const kept = view.word !== null && current.pieces[view.word - 1] !== undefined
      && plain(current.pieces[view.word - 1]) === view.name;
    const asked = wanted.word && wanted.word <= Math.min(current.pieces.length, 75) ? wanted.word : null;
    if (asked) view.word = asked;
    else if (!kept) view.word = firstNoun(current.pieces, nouns);
    diagram.working("tokens");
  },
  states({ states, d }) {
    Object.assign(current, { states, d });
    diagram.working("states");
  },
  start({ z, times }) {
    Object.assign(current, { start: z, times });
    diagram.working("noise");
  },
  step(message) {
    current.frames[message.step - 1] = message;
    diagram.working("loop");
  },
  done({ image, z, seconds }) {
    Object.assign(current, { done: true, image, z });
    const steps = current.settings.steps;
    finish(`Drawn in ${seconds.toFixed(1)} s: ${steps} ${steps === 1 ? "step" : "steps"}, seed ${current.settings.seed}.`);
  },
  stopped({ step }) {
    const again = queue.length > 0;
    finish(again ? "" : `Stopped after step ${step} of ${current.settings.steps}.`);
  },
  error({ id, text }) {
    queue.length = 0;
    if (id === null || id === undefined) {
      failed = text;
      $("bar").hidden = true;
    }
    finish("");
    tell(text, true);
  },
};

function learn(course) {
  known = course.words ? new Set(course.words) : null;
  objects = course.vocabulary?.find(({ name }) => name === "Objects")?.words ?? [];
  nouns = objects.flatMap((noun) => noun.split(" ").slice(-1));
  if (config.defaults && !fromLink(location.hash) && !touched) {
    fields.a.write({ ...DEFAULTS, ...config.defaults, prompt: fields.a.inputs.prompt.value });
  }
  fillHelp(course, {
    take(text) {
      lastPrompt.value = text;
      lastPrompt.dispatchEvent(new Event("input", { bubbles: true }));
      start();
    },
    insert: (words) => insertWords(lastPrompt, words),
  });
  explainWords();
}

// ------------------------------------------------------------------------------------------ events

let touched = false;
$("controls").addEventListener("input", () => {
  touched = true;
  linkNote = "";
}, true); // before the fields' own listeners
$("controls").addEventListener("focusin", ({ target }) => {
  if (target.name === "prompt" || target.name === "negative") lastPrompt = target;
});
$("controls").onsubmit = (event) => {
  event.preventDefault();
  start();
};
$("stop").onclick = () => {
  queue.length = 0;
  worker.postMessage({ kind: "stop" });
};

function compare(is, settings) {
  $("b").hidden = $("pair").hidden = $("of").hidden = !is;
  for (const title of document.querySelectorAll(".which")) title.hidden = !is;
  $("compare").setAttribute("aria-pressed", is);
  $("controls").classList.toggle("two", is);
  if (is) {
    fields.b.write(settings ?? fields.a.check() ?? DEFAULTS);
    pair.show(drawings.a, null, drawings.a?.frames.length ?? 0, 0);
  } else {
    drawings.b = null;
    view.which = "a";
  }
  explainWords();
  show();
  remember();
}
$("compare").onclick = () => {
  compare(!comparing());
  if (comparing()) fields.b.inputs.prompt.focus();
};
for (const radio of $("of").children) {
  radio.onclick = () => {
    view.which = radio.dataset.show;
    show();
  };
  radio.onkeydown = ({ key }) => {
    if (!key.startsWith("Arrow")) return;
    const other = [...$("of").children].find((each) => each !== radio);
    if (!other.disabled) other.click(), other.focus();
    return false;
  };
}

$("save").onclick = () => {
  const { settings, image } = drawings[view.which];
  const file = new Blob([png(image, entries(settings, image, config))], { type: "image/png" });
  const link = document.createElement("a");
  link.href = URL.createObjectURL(file);
  link.download = `${settings.prompt.replace(/[^\p{L}\p{N}]+/gu, "-").slice(0, 60) || "image"}-${settings.seed}.png`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
};
$("copy").onclick = async () => {
  const link = address();
  if (!link) return tell("The link is not copied: a setting needs another value.", true);
  history.replaceState(null, "", `#${link}`);
  try {
    await navigator.clipboard.writeText(location.href);
    tell("The link is copied. It holds every setting, the step and the word.");
  } catch {
    tell("The browser doesn't allow copying here. The address bar has the link.");
  }
};

// --------------------------------------------------------------------------------------- beginning

function open() {
  const link = fromLink(location.hash);
  fields.a.write(link?.a ?? DEFAULTS);
  if (link) {
    wanted = { step: link.step, word: link.word };
    if (link.b || comparing()) compare(Boolean(link.b), link.b);
  }
  linkNote = link?.wrong.length ? `The link has a value that can't be used. ${link.wrong[0]}` : "";
  explainWords();
}
window.addEventListener("hashchange", () => (open(), start()));

theme();
diagram.openable();
wires();
open();

let worker;
const missing = missingFeature();
if (missing) on.error({ id: null, text: missing });
else try {
  worker = new Worker("worker.js", { type: "module" });
  worker.onmessage = ({ data }) => {
    if (data.id !== undefined && data.id !== null && data.id !== current?.id) return;
    on[data.kind]?.(data);
    view.name = drawings[view.which]?.pieces && view.word ? attention.tokenName(drawings[view.which], view.word) : null;
    if (data.kind !== "loading") show();
  };
  worker.onerror = (event) => on.error({ id: null, text: event.message
    ? `The model did not start: ${event.message}.`
    : "The model did not start: this browser can't run module workers, or a file of the site is missing." });
} catch (error) {
  on.error({ id: null, text: `The model did not start: ${error.message}.` });
}
