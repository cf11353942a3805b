// The steps as a film: a strip of pictures, a slider, and play.

import { paint } from "./pixels.js";

const $ = (id) => document.getElementById(id);
const PER_SECOND = 8;

// choose(step) is called when the reader, or play, goes to a step.
export function film(choose) {
  const slider = $("step"), play = $("play"), strip = $("strip");
  let drawing = null, timer = null;

  const stop = () => {
    clearInterval(timer);
    timer = null;
    play.classList.remove("on");
    play.setAttribute("aria-label", "Play the steps");
  };
  const forward = () => {
    const next = +slider.value + 1;
    if (next > drawing.frames.length) return stop();
    choose(next);
  };
  play.onclick = () => {
    if (timer) return stop();
    if (+slider.value >= drawing.frames.length) choose(1);
    timer = setInterval(forward, 1000 / PER_SECOND);
    play.classList.add("on");
    play.setAttribute("aria-label", "Pause");
  };
  slider.oninput = () => {
    stop();
    choose(Math.min(+slider.value, drawing?.frames.length ?? 1));
  };

  // As many pictures as the strip has room for, evenly over the steps.
  const cells = (steps) => Math.min(steps, Math.max(8, Math.floor(strip.clientWidth / 44)));
  const stepOf = (cell, count, steps) => Math.round(((cell + 1) * steps) / count);

  return {
    stop,
    show(shown, step) {
      drawing = shown;
      const { settings: { steps }, frames, times } = shown, count = cells(steps);
      const key = `${shown.id} ${count}`;
      if (strip.dataset.of !== key) {
        strip.dataset.of = key;
        strip.replaceChildren(...Array.from({ length: count }, (_, cell) => {
          const canvas = document.createElement("canvas");
          canvas.width = canvas.height = 64;
          canvas.onclick = () => {
            const at = stepOf(cell, count, steps);
            if (at <= drawing.frames.length) stop(), choose(at);
          };
          return canvas;
        }));
      }
      [...strip.children].forEach((canvas, cell) => {
        const at = stepOf(cell, count, steps), frame = frames[at - 1];
        if (frame && !canvas.painted) paint(canvas, frame.image), (canvas.painted = true);
        const from = cell ? stepOf(cell - 1, count, steps) : 0;
        canvas.classList.toggle("here", step > from && step <= at);
      });
      $("film").hidden = false;
      slider.max = steps;
      slider.value = step || 1;
      slider.disabled = play.disabled = !frames.length;
      const frame = frames[step - 1];
      if (frame) paint($("mini"), frame.image);
      const text = frame ? `step ${step} of ${steps}` : "no steps yet";
      const time = frame ? `, t = ${Math.round(times[step - 1])}` : "";
      $("step-says").textContent = text + time;
      slider.setAttribute("aria-valuetext", text + time);
      slider.style.setProperty("--done", `${(100 * (frames.length - 1)) / Math.max(1, steps - 1)}%`);
    },
  };
}
