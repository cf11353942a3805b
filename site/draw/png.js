// A PNG file with text entries, as sdlearn.utils.png_metadata writes it: `sdlearn` reads the settings
// back and draws the same picture.

const CRC = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let k = 0; k < 8; k++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
  return n;
});
const crc = (bytes) =>
  (bytes.reduce((sum, byte) => CRC[(sum ^ byte) & 255] ^ (sum >>> 8), 0xffffffff) ^ 0xffffffff) >>> 0;

const joined = (parts) => {
  const all = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) all.set(part, at), (at += part.length);
  return all;
};
const uint32 = (n) => Uint8Array.of(n >>> 24, n >>> 16, n >>> 8, n);
const ascii = (text) => Uint8Array.from(text, (c) => c.charCodeAt(0));

// A chunk: length, type, content, and a checksum of type and content.
const chunk = (type, content) => {
  const body = joined([ascii(type), content]);
  return joined([uint32(content.length), body, uint32(crc(body))]);
};

// tEXt for text in Latin-1, iTXt (uncompressed, no language) for any other.
const entry = (key, text) =>
  [...text].every((c) => c.codePointAt(0) < 256)
    ? chunk("tEXt", joined([ascii(key), Uint8Array.of(0), ascii(text)]))
    : chunk("iTXt", joined([ascii(key), new Uint8Array(5), new TextEncoder().encode(text)]));

// zlib, with blocks that are stored as they are: a picture of 64 pixels has 12 kB.
function zlib(bytes) {
  let a = 1, b = 0;
  for (const byte of bytes) b = (b + (a = (a + byte) % 65521)) % 65521;
  const parts = [Uint8Array.of(0x78, 0x01)];
  for (let at = 0; at < bytes.length; at += 65535) {
    const block = bytes.subarray(at, at + 65535), { length: n } = block;
    const last = at + n >= bytes.length;
    parts.push(Uint8Array.of(+last, n, n >> 8, ~n, ~n >> 8), block);
  }
  return joined([...parts, uint32(((b << 16) | a) >>> 0)]);
}

// Python writes 3.0 where JavaScript writes 3.
const decimal = (value) => (Number.isInteger(value) ? `${value}.0` : String(value));

// The entries of write_png, in its order. config: name and sdlearn's version, from the model's files.
export function entries(settings, { width, height }, config = {}) {
  return {
    prompt: settings.prompt,
    negative_prompt: settings.negative,
    steps: String(settings.steps),
    guidance_scale: decimal(settings.guidance),
    sampler: settings.sampler,
    seed: String(settings.seed),
    height: String(height),
    width: String(width),
    n: "1",
    sigmas: settings.sampler === "ddim" ? "table" : "uniform_lambda",
    eta: "0.0",
    guidance_rescale: "0.0",
    clip_skip: "0",
    model: config.name ?? "storybook",
    software: config.sdlearn ? `sdlearn ${config.sdlearn}` : "sdlearn",
  };
}

// { rgba, width, height } -> the bytes of an RGB PNG file with these text entries.
export function png({ rgba, width, height }, texts) {
  const rows = new Uint8Array(height * (1 + 3 * width)); // each row begins with its filter, 0
  for (let y = 0, to = 0; y < height; y++) {
    to++;
    for (let x = 0; x < width; x++, to += 3) {
      rows.set(rgba.subarray(4 * (y * width + x), 4 * (y * width + x) + 3), to);
    }
  }
  const head = joined([uint32(width), uint32(height), Uint8Array.of(8, 2, 0, 0, 0)]);
  return joined([
    Uint8Array.of(137, 80, 78, 71, 13, 10, 26, 10),
    chunk("IHDR", head),
    ...Object.entries(texts).map(([key, text]) => entry(key, text)),
    chunk("IDAT", zlib(rows)),
    chunk("IEND", new Uint8Array()),
  ]);
}
