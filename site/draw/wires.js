// The lines between the boxes, drawn where the boxes are: beside each other on a wide page, in three rows
// on a tablet, below each other on a phone.

const WIRES = [
  ["tokens", "states", "states"],
  ["states", "unet", "loop"],
  ["noise", "unet", "loop"],
  ["unet", "latent", "loop"],
  ["latent", "unet", "loop"],
  ["latent", "image", "loop"],
];
const svg = document.getElementById("wires");
const pipeline = document.getElementById("pipeline");
const make = (name, attributes) => {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
};

const places = () => {
  const origin = pipeline.getBoundingClientRect();
  return Object.fromEntries([...pipeline.querySelectorAll(".box")].map((box) => {
    const r = box.getBoundingClientRect();
    const [left, top] = [r.left - origin.left, r.top - origin.top];
    return [box.dataset.box, { left, top, right: left + r.width, bottom: top + r.height, x: left + r.width / 2, y: top + r.height / 2 }];
  }));
};

// The path from one box to the next, and the direction in which it arrives.
function path(a, b, back) {
  if (back) { // out of the latent, around, and into the U-Net again
    if (a.left > b.right) {
      const y = Math.min(a.bottom, b.bottom);
      return { d: `M${a.left} ${y - 46}H${b.right + 4}`, x: b.right + 2, y: y - 46, turn: 180 };
    }
    const x = Math.max(a.right, b.right), y0 = a.top + 30, y1 = b.bottom - 30;
    return { d: `M${x} ${y0}h3q6 0 6 -6V${y1 + 6}q0 -6 -6 -6h-1`, x: x + 1, y: y1, turn: 180 };
  }
  if (b.left >= a.right) {
    const from = Math.min(Math.max(a.y, b.top + 24), b.bottom - 24), to = Math.min(Math.max(from, b.top + 24), b.bottom - 24);
    return { d: `M${a.right} ${from}H${b.left - 4}`, x: b.left - 2, y: to, turn: 0 };
  }
  const x = Math.min(Math.max(a.x, b.left + 24), b.right - 24);
  return { d: `M${x} ${a.bottom}V${b.top - 4}`, x, y: b.top - 2, turn: 90 };
}

function draw() {
  const at = places();
  svg.setAttribute("viewBox", `0 0 ${pipeline.clientWidth} ${pipeline.clientHeight}`);
  svg.setAttribute("width", pipeline.clientWidth);
  svg.setAttribute("height", pipeline.clientHeight);
  const wide = at.noise.right <= at.unet.left, stacked = !wide && at.noise.left === at.states.left;
  svg.replaceChildren(...WIRES.flatMap(([from, next, stage]) => {
    const back = from === "latent" && next === "unet";
    if (stacked && from === "states") return []; // the noise lies between them
    const to = from === "noise" && !wide && !stacked ? "latent" : next; // the noise is the first latent
    const { d, x, y, turn } = path(at[from], at[to], back);
    const group = make("g", { "data-stage": stage });
    group.append(make("path", { d, class: "line" }),
      make("path", { d: "M-7 -4.5L0 0L-7 4.5", class: "tip", transform: `translate(${x} ${y}) rotate(${turn})` }));
    return [group];
  }));
}

export function wires() {
  new ResizeObserver(draw).observe(pipeline);
  for (const box of pipeline.querySelectorAll(".box")) new ResizeObserver(draw).observe(box);
}
