// The form: two sets of fields, A and B, and help to find a prompt.

import { NAMES, check } from "./settings.js";

// The fields of one setting, in `root`.
export class Fields {
  constructor(root, changed) {
    this.root = root;
    this.inputs = Object.fromEntries(NAMES.map((name) => [name, root.querySelector(`[name="${name}"]`)]));
    for (const sentence of root.querySelectorAll(".wrong, .note")) {
      const name = sentence.dataset.for ?? sentence.dataset.note;
      sentence.id = `${root.id}-${name}-${sentence.className}`;
    }
    for (const [name, input] of Object.entries(this.inputs)) {
      input.setAttribute("aria-describedby", `${root.id}-${name}-wrong ${root.id}-${name}-note`);
    }
    root.addEventListener("input", () => (this.check(), changed()));
    root.querySelector(".dice").onclick = () => {
      this.inputs.seed.value = crypto.getRandomValues(new Uint32Array(1))[0] % 100000;
      this.check();
      changed(true);
    };
  }

  write(settings) {
    for (const name of NAMES) this.inputs[name].value = settings[name];
    this.check();
  }

  // The settings, or null with a sentence beside each field that isn't right.
  check() {
    const typed = Object.fromEntries(NAMES.map((name) => [name, this.inputs[name].value]));
    const { settings, wrong } = check(typed);
    for (const name of NAMES) {
      const sentence = this.root.querySelector(`[data-for="${name}"]`);
      if (sentence.textContent !== (wrong[name] ?? "")) sentence.textContent = wrong[name] ?? "";
      this.inputs[name].toggleAttribute("aria-invalid", Boolean(wrong[name]));
    }
    return Object.keys(wrong).length ? null : settings;
  }

  firstWrong() {
    return NAMES.map((name) => this.inputs[name]).find((input) => input.hasAttribute("aria-invalid"));
  }

  note(name, text) {
    const note = this.root.querySelector(`[data-note="${name}"]`);
    if (note.textContent !== text) note.textContent = text;
  }
}

// The fields of B: those of A once more, with names of their own.
export function copyOf(a, b) {
  b.innerHTML = a.innerHTML.replaceAll('"a-', '"b-');
  b.querySelector(".which").textContent = "B";
}

// Words of a text that no caption has, each once: unknown_words in sdlearn/storybook/captions.py.
export function unknownWords(text, known) {
  const words = text.toLowerCase().match(/[\p{L}\p{N}]+(?:-[\p{L}\p{N}]+)*/gu) ?? [];
  return [...new Set(words)].filter((word) => !known.has(word));
}

// How many letters must change to turn one word into the other (Levenshtein).
function distance(a, b) {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      next[j] = Math.min(row[j] + 1, next[j - 1] + 1, row[j - 1] + (a[i - 1] !== b[j - 1]));
    }
    row = next;
  }
  return row[b.length];
}

// A sentence about unknown words: what the model knows instead. objects: words it can draw.
export function aboutUnknown(unknown, known, objects) {
  if (!unknown.length) return "";
  const quoted = unknown.map((word) => `“${word}”`);
  const listed = quoted.length > 1 ? `${quoted.slice(0, -1).join(", ")} or ${quoted.at(-1)}` : quoted[0];
  const near = [...known].filter((word) => word.length > 2 && unknown.some((each) => distance(each, word) <= (each.length > 4 ? 2 : 1)));
  const instead = near.length
    ? `It knows ${near.slice(0, 3).map((word) => `“${word}”`).join(", ")}.`
    : `It can draw these: ${objects.join(", ")}.`;
  return `The model has never read ${listed}. ${instead}`;
}

// Buttons for examples and for words. course: the model's course.json.
export function fillHelp(course, { take, insert }) {
  const button = (text, act) => {
    const made = document.createElement("button");
    made.type = "button";
    made.textContent = text;
    made.onclick = () => act(text);
    return made;
  };
  const examples = document.getElementById("examples");
  const { captions = [] } = course;
  const any = button("Random prompt", () => take(captions[Math.floor(Math.random() * captions.length)]));
  any.className = "any";
  examples.replaceChildren(...(captions.length ? [any] : []),
    ...(course.examples ?? []).map((text) => button(text, take)));
  const groups = (course.vocabulary ?? []).map(({ name, words }) => {
    const group = document.createElement("div");
    const title = document.createElement("h3");
    title.textContent = name;
    title.id = `words-${name.toLowerCase().replace(/\W+/g, "-")}`;
    group.setAttribute("role", "group");
    group.setAttribute("aria-labelledby", title.id);
    const list = document.createElement("p");
    list.append(...words.map((word) => button(word, insert)));
    group.append(title, list);
    return group;
  });
  document.getElementById("vocabulary").replaceChildren(...groups);
}

// Put words into a prompt where the cursor is, with one space on either side.
export function insertWords(input, words) {
  const from = input.selectionStart ?? input.value.length, to = input.selectionEnd ?? from;
  const before = input.value.slice(0, from).trimEnd(), after = input.value.slice(to).trimStart();
  const head = before ? `${before} ${words}` : words;
  input.value = after ? `${head}${after.startsWith(",") ? "" : " "}${after}` : head;
  input.setSelectionRange(head.length, head.length);
  input.dispatchEvent(new Event("input", { bubbles: true }));
}

