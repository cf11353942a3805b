// A canvas to paint on, with a mouse, a pen, a finger or the keyboard. Its model is canvas.Canvas.
//
// Each cell, a pixel of the image, has a mark: 0 untouched, 1 painted, 2 erased to black. The marks
// are kept here and never read back from the canvas, because some browsers change what a page reads.
const UNTOUCHED = 0;
const PAINTED = 1;
const ERASED = 2;
const BORDER_FROM = 3; // screen pixels per cell: below that a border would cover what it encloses
const MOVES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const FAR = 8; // cells that an arrow key moves with Shift

function encode(cells) {
  // [mark, length, mark, length, ...], row by row.
  const runs = [];
  for (let i = 0; i < cells.length; i++) {
    if (i > 0 && cells[i] === cells[i - 1]) runs[runs.length - 1] += 1;
    else runs.push(cells[i], 1);
  }
  return runs;
}

function decode(runs, cells) {
  let place = 0;
  for (let k = 0; k + 1 < runs.length; k += 2) {
    cells.fill(runs[k], place, place + runs[k + 1]);
    place += runs[k + 1];
  }
  cells.fill(UNTOUCHED, place);
}

function render({ model, el }) {
  const columns = model.get("columns");
  const rows = model.get("rows");
  const unit = Math.max(1, Math.round(model.get("shown_width") / columns));
  const cells = new Uint8Array(columns * rows);
  const cursor = { x: columns >> 1, y: rows >> 1 };
  let pen = null; // the mark being made, while a button or a key is down
  let last = null; // where the stroke got to, in cells
  let hover = null; // where the mouse is

  const canvas = document.createElement("canvas");
  canvas.className = "sd-canvas";
  canvas.width = columns * unit;
  canvas.height = rows * unit;
  canvas.tabIndex = 0;
  canvas.setAttribute("role", "application");
  canvas.setAttribute("aria-label", model.get("label"));
  canvas.style.width = `${model.get("shown_width")}px`;
  const help = document.createElement("div");
  help.className = "sd-canvas-help";
  help.id = `sd-canvas-${Math.random().toString(36).slice(2)}`;
  help.textContent = model.get("help");
  canvas.setAttribute("aria-describedby", help.id);
  const place = document.createElement("div"); // where the cursor is, read out as it moves
  place.className = "sd-canvas-place";
  place.setAttribute("role", "status");
  el.dataset.lmSuppressShortcuts = "true"; // arrow keys are JupyterLab's elsewhere in a notebook
  el.classList.add("sd-canvas-box");
  el.append(canvas, help, place);

  const context = canvas.getContext("2d");
  const layer = Object.assign(document.createElement("canvas"), { width: columns, height: rows });
  const layerContext = layer.getContext("2d");
  const pixels = layerContext.createImageData(columns, rows);
  const background = new Image();

  function draw() {
    context.imageSmoothingEnabled = false;
    context.fillStyle = "black";
    context.fillRect(0, 0, canvas.width, canvas.height);
    if (background.naturalWidth) context.drawImage(background, 0, 0, canvas.width, canvas.height);
    const paint = model.get("paint");
    for (let i = 0; i < cells.length; i++) {
      const colour = cells[i] === PAINTED ? paint : [0, 0, 0, cells[i] === ERASED ? 255 : 0];
      pixels.data.set(colour, 4 * i);
    }
    layerContext.putImageData(pixels, 0, 0);
    context.drawImage(layer, 0, 0, canvas.width, canvas.height);
    if (paint[3] < 255 && unit >= BORDER_FROM) outline(border());
    const focused = document.activeElement === canvas;
    if (hover || focused) outline(brushAt(hover ?? cursor));
    if (focused && !hover) outline(squareAt(cursor));
  }

  function outline(path) {
    // White on black, so that it is seen on every image.
    for (const [colour, width] of [["black", 3], ["white", 1.5]]) {
      context.strokeStyle = colour;
      context.lineWidth = width;
      context.stroke(path);
    }
  }

  function border() {
    const path = new Path2D();
    for (let y = 0; y < rows; y++) {
      for (let x = 0; x < columns; x++) {
        const here = cells[y * columns + x] === PAINTED;
        if (x > 0 && here !== (cells[y * columns + x - 1] === PAINTED)) {
          path.moveTo(x * unit, y * unit);
          path.lineTo(x * unit, (y + 1) * unit);
        }
        if (y > 0 && here !== (cells[(y - 1) * columns + x] === PAINTED)) {
          path.moveTo(x * unit, y * unit);
          path.lineTo((x + 1) * unit, y * unit);
        }
      }
    }
    return path;
  }

  function brushAt({ x, y }) {
    const path = new Path2D();
    const { radius, shift } = brush();
    path.arc((x + 0.5 - shift) * unit, (y + 0.5 - shift) * unit, radius * unit, 0, 2 * Math.PI);
    return path;
  }

  function brush() {
    // An even brush is centred on the upper left corner of its cell.
    const diameter = model.get("brush");
    return { radius: diameter / 2, shift: diameter % 2 ? 0 : 0.5 };
  }

  function squareAt({ x, y }) {
    const path = new Path2D();
    path.rect(x * unit - 1, y * unit - 1, unit + 2, unit + 2);
    return path;
  }

  function stamp(x, y) {
    // Marks the cells whose centre is under the brush.
    const { radius, shift } = brush();
    const reach = Math.ceil(radius);
    for (let j = y - reach; j <= y + reach; j++) {
      for (let i = x - reach; i <= x + reach; i++) {
        const inside = i >= 0 && i < columns && j >= 0 && j < rows;
        const under = (i - x + shift) ** 2 + (j - y + shift) ** 2 < radius ** 2;
        if (inside && under) cells[j * columns + i] = pen;
      }
    }
  }

  function strokeTo(x, y) {
    // Marks every cell on the way, however fast the hand is.
    const from = last ?? { x, y };
    const steps = Math.max(Math.abs(x - from.x), Math.abs(y - from.y), 1);
    for (let k = 0; k <= steps; k++) {
      const part = k / steps;
      stamp(Math.round(from.x + part * (x - from.x)), Math.round(from.y + part * (y - from.y)));
    }
    last = { x, y };
  }

  function begin(erase) {
    pen = erase ? model.get("erased") : PAINTED;
    last = null;
  }

  function end() {
    if (pen === null) return;
    pen = last = null;
    model.set("marks", encode(cells));
    model.save_changes();
    draw();
  }

  function cellOf(event) {
    const box = canvas.getBoundingClientRect();
    return {
      x: Math.floor(((event.clientX - box.left) / box.width) * columns),
      y: Math.floor(((event.clientY - box.top) / box.height) * rows),
    };
  }

  function onDown(event) {
    if (event.button !== 0 && event.button !== 5) return; // 5 is the back end of a pen
    event.preventDefault();
    canvas.focus({ preventScroll: true });
    canvas.setPointerCapture(event.pointerId);
    begin(model.get("erasing") || event.button === 5 || event.shiftKey);
    onMove(event);
  }

  function onMove(event) {
    const at = cellOf(event);
    hover = event.pointerType === "touch" ? null : at;
    if (pen !== null) {
      for (const each of event.getCoalescedEvents?.() ?? []) {
        const there = cellOf(each);
        strokeTo(there.x, there.y);
      }
      strokeTo(at.x, at.y);
      cursor.x = Math.min(columns - 1, Math.max(0, at.x));
      cursor.y = Math.min(rows - 1, Math.max(0, at.y));
    }
    draw();
  }

  function onLeave() {
    hover = null;
    draw();
  }

  function onKeyDown(event) {
    const erases = event.key === "e" || event.key === "E";
    const move = MOVES[event.key];
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (!move && !erases && event.code !== "Space") return;
    event.preventDefault();
    hover = null;
    if (move) {
      const far = event.shiftKey && pen === null ? FAR : 1;
      cursor.x = Math.min(columns - 1, Math.max(0, cursor.x + far * move[0]));
      cursor.y = Math.min(rows - 1, Math.max(0, cursor.y + far * move[1]));
    } else if (!event.repeat) {
      begin(erases || event.shiftKey || model.get("erasing"));
    }
    if (pen !== null) strokeTo(cursor.x, cursor.y);
    say();
    draw();
  }

  function onKeyUp(event) {
    if (!(event.key in MOVES) && event.key !== "Shift") end();
  }

  function say() {
    const mark = cells[cursor.y * columns + cursor.x] === PAINTED ? "painted" : "not painted";
    place.textContent = `Cursor in row ${cursor.y + 1}, column ${cursor.x + 1}: ${mark}.`;
  }

  function onBlur() {
    end();
    place.textContent = "";
    draw();
  }

  function takeMarks() {
    if (pen !== null) return; // a stroke is being made; it is sent when it ends
    decode(model.get("marks"), cells);
    draw();
  }

  function takeBackground() {
    background.src = model.get("background") || "data:,";
    draw();
  }

  const events = {
    pointerdown: onDown, pointermove: onMove, pointerup: end, pointercancel: end,
    pointerleave: onLeave, keydown: onKeyDown, keyup: onKeyUp, focus: draw, blur: onBlur,
  };
  for (const [name, act] of Object.entries(events)) canvas.addEventListener(name, act);
  background.addEventListener("load", draw);
  background.addEventListener("error", draw);
  model.on("change:marks", takeMarks);
  model.on("change:background", takeBackground);
  model.on("change:brush", draw);
  takeMarks();
  takeBackground();
  return () => {
    model.off("change:marks", takeMarks);
    model.off("change:background", takeBackground);
    model.off("change:brush", draw);
  };
}

export default { render };
