// Numbers as colours, and pictures on canvases.

// Matplotlib's cividis, as in the course's figures: even steps of lightness, for every kind of sight.
const STOPS = ["00224e", "002e6a", "1a386f", "32436d", "434e6c", "535a6d", "61656f", "6f7073", "7d7c78",
  "8c8878", "9b9476", "aba072", "bcae6c", "cdbb63", "dec958", "f0d846", "fee838"]
  .map((hex) => [0, 2, 4].map((k) => parseInt(hex.slice(k, k + 2), 16)));

// 0 … 1 -> [r, g, b]
export function colour(x) {
  const at = Math.min(Math.max(x, 0), 1) * (STOPS.length - 1);
  const k = Math.min(Math.floor(at), STOPS.length - 2);
  return STOPS[k].map((c, i) => c + (at - k) * (STOPS[k + 1][i] - c));
}

export function paint(canvas, { rgba, width, height }) {
  canvas.width = width;
  canvas.height = height;
  canvas.getContext("2d").putImageData(new ImageData(rgba, width, height), 0, 0);
}

export const clear = (canvas) => canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height);

// A bar of all colours, from low to high.
export function ramp(canvas, of = colour) {
  const rgba = new Uint8ClampedArray(4 * 256).fill(255);
  for (let i = 0; i < 256; i++) rgba.set(of(i / 255), 4 * i);
  paint(canvas, { rgba, width: 256, height: 1 });
}

// (h, w) values at a place of a picture; limit is the value of the lightest and darkest colour.
function place(picture, values, side, left, top, limit) {
  for (let i = 0; i < side * side; i++) {
    const at = 4 * ((top + Math.floor(i / side)) * picture.width + left + (i % side));
    picture.rgba.set([...colour(0.5 + values[i] / limit / 2), 255], at);
  }
}

// A latent's four channels with a gap of one pixel between them: across, down, or as a square.
const LAYOUTS = {
  row: { width: 35, height: 8, at: (c) => [9 * c, 0] },
  column: { width: 8, height: 35, at: (c) => [0, 9 * c] },
  square: { width: 17, height: 17, at: (c) => [9 * (c & 1), 9 * (c >> 1)] },
};
export function channels(canvas, z, layout, limit = 3) {
  const { width, height, at } = LAYOUTS[layout];
  const picture = { rgba: new Uint8ClampedArray(4 * width * height), width, height };
  for (let c = 0; c < 4; c++) place(picture, z.subarray(64 * c, 64 * (c + 1)), 8, ...at(c), limit);
  paint(canvas, picture);
}

// Text states (tokens, d), one column a token, -limit … limit.
export function columns(canvas, states, d, limit = 3) {
  const tokens = states.length / d;
  const rgba = new Uint8ClampedArray(4 * tokens * d).fill(255);
  states.forEach((value, i) => {
    const token = Math.floor(i / d), row = i % d;
    rgba.set(colour(0.5 + value / limit / 2), 4 * (row * tokens + token));
  });
  paint(canvas, { rgba, width: tokens, height: d });
}

// An attention map (8 × 8) alone, 0 … top.
export function map(canvas, weights, top) {
  const rgba = new Uint8ClampedArray(4 * 64).fill(255);
  weights.forEach((weight, i) => rgba.set(colour(weight / top), 4 * i));
  paint(canvas, { rgba, width: 8, height: 8 });
}

// The map over the image: its colour is the map's, and the image shows in its lightness alone.
export function overlay(canvas, weights, top, { rgba, width, height }) {
  const over = new Uint8ClampedArray(rgba.length).fill(255);
  for (let i = 0; i < width * height; i++) {
    const x = i % width, y = Math.floor(i / width);
    const weight = weights[8 * Math.floor((8 * y) / height) + Math.floor((8 * x) / width)];
    const [r, g, b] = rgba.subarray(4 * i, 4 * i + 3);
    const grey = 0.299 * r + 0.587 * g + 0.114 * b;
    over.set(colour(weight / top).map((c) => 0.62 * c + 0.38 * grey), 4 * i);
  }
  paint(canvas, { rgba: over, width, height });
}

// |a - b|, and its mean in grey levels of 255.
export function difference(canvas, a, b) {
  const rgba = new Uint8ClampedArray(a.rgba.length).fill(255);
  let sum = 0, most = 0;
  for (let i = 0; i < a.rgba.length; i++) {
    if (i % 4 === 3) continue;
    const off = Math.abs(a.rgba[i] - b.rgba[i]);
    rgba[i] = off;
    sum += off;
    most = Math.max(most, off);
  }
  paint(canvas, { ...a, rgba });
  return { mean: sum / ((a.rgba.length * 3) / 4), most };
}

export function spread(values) {
  const mean = values.reduce((sum, v) => sum + v, 0) / values.length;
  const variance = values.reduce((sum, v) => sum + (v - mean) ** 2, 0) / values.length;
  return { mean, std: Math.sqrt(variance) };
}
// With a true minus sign, so that columns of numbers stay aligned.
export const shown = (value, digits = 2) => {
  const text = value.toFixed(digits);
  return +text === 0 ? text.replace("-", "") : text.replace("-", "−");
};
