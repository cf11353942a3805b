// The few things of the book that need a script. Without it the pages can still be read.
"use strict";

const root = document.documentElement;

document.querySelector(".theme").addEventListener("click", () => {
  const dark = root.dataset.theme
    ? root.dataset.theme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  try { localStorage.setItem("theme", root.dataset.theme); } catch { /* private: for this page only */ }
});

// On a narrow screen the contents cover the page until a link or Escape closes them.
const menu = document.querySelector(".menu");
const open = (yes) => {
  root.classList.toggle("contents-open", yes);
  menu.setAttribute("aria-expanded", String(yes));
};
if (menu) {
  menu.addEventListener("click", () => open(!root.classList.contains("contents-open")));
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && root.classList.contains("contents-open")) { open(false); menu.focus(); }
  });
  const here = document.querySelector("#contents a.current");
  const contents = document.getElementById("contents");
  if (here) contents.scrollTop = here.offsetTop - contents.clientHeight / 3;
}

// A button that copies a cell. The code itself stays selectable.
for (const block of document.querySelectorAll("div.highlight")) {
  if (block.closest(".cell_output") || !navigator.clipboard) continue;
  const button = document.createElement("button");
  button.type = "button";
  button.className = "copy";
  button.textContent = "Copy";
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(block.querySelector("pre").textContent.trimEnd());
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });
  block.append(button);
}

// The drawing page loads its model only when it is asked for.
for (const link of document.querySelectorAll("a.load-draw")) {
  link.setAttribute("role", "button");
  link.addEventListener("click", (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    const frame = document.createElement("iframe");
    frame.src = link.href;
    frame.title = link.dataset.title;
    frame.className = "draw";
    link.closest(".live").append(frame);
    link.remove();
    frame.focus();
  });
}

// Mark the section that is being read in the list at the right.
const entries = new Map();
for (const link of document.querySelectorAll(".sections.wide a[href^='#']")) {
  const section = document.getElementById(decodeURIComponent(link.hash.slice(1)));
  if (section) entries.set(section, link);
}
if (entries.size) {
  const observer = new IntersectionObserver((seen) => {
    for (const { target, isIntersecting } of seen) {
      entries.get(target).classList.toggle("seen", isIntersecting);
    }
  }, { rootMargin: "-15% 0px -70% 0px" });
  for (const section of entries.keys()) observer.observe(section);
}
