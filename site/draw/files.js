// Files over the network, with a progress report and a sentence for whatever goes wrong.
//
// A static host can answer in many wrong ways: not at all, with "404", with a friendly web page in
// place of the missing file, with half of it, or with that of an earlier version from a cache. The
// size and the CRC-32 that config.json holds for each file tell all of these from the right one.

/** A file that cannot be used; its message is a sentence for the reader. */
export class FileError extends Error {}

/**
 * A file's contents.
 *
 * @param {URL} url
 * @param {{bytes?: number, crc32?: number}} expected What is known of the file; {} for nothing.
 * @param {(received: number, total: number) => void} report Called after each part that arrives,
 *   with bytes; total is 0 if it is not known.
 * @returns {Promise<Uint8Array>}
 * @throws {FileError} If the file is missing or damaged.
 */
export async function download(url, expected = {}, report = () => {}) {
  const content = await receive(url, "default", expected, report);
  if (!fault(content, expected)) return content;
  // The cache may hold the file of an earlier version: ask the server itself, once.
  const again = await receive(url, "reload", expected, report);
  const wrong = fault(again, expected);
  if (wrong) throw new FileError(`The file ${shortName(url)} ${wrong}. ${ADVICE}`);
  return again;
}

const ADVICE = "Reload the page; if that does not help, the website has to be put up again.";

/** A JSON file's contents; the errors are those of `download`. */
export async function downloadJson(url, expected = {}) {
  const text = new TextDecoder().decode(await download(url, expected));
  try {
    return JSON.parse(text);
  } catch {
    throw new FileError(`The file ${shortName(url)} is damaged: it is not JSON. ${ADVICE}`);
  }
}

/** A JavaScript module, imported from its contents. Its Content-Type does not matter that way. */
export async function importModule(content) {
  const url = moduleUrl(content);
  try {
    return await import(url);
  } finally {
    URL.revokeObjectURL(url);
  }
}

/**
 * An address from which a module can be imported.
 *
 * Many servers do not know the ending .mjs and send it as a download, and a browser refuses to
 * import a module of that type.
 *
 * @param {Uint8Array} content
 * @returns {string}
 */
export function moduleUrl(content) {
  return URL.createObjectURL(new Blob([content], { type: "text/javascript" }));
}

async function receive(url, cache, { bytes }, report) {
  let answer;
  try {
    answer = await fetch(url, { cache });
  } catch {
    throw new FileError(
      `The file ${shortName(url)} could not be loaded: the server does not answer. ` +
        "Look at your connection and reload the page.",
    );
  }
  if (!answer.ok) {
    const wrong = answer.status === 404 ? "is missing" : "could not be loaded";
    throw new FileError(
      `The file ${shortName(url)} ${wrong}: the server answers ${answer.status}. ${ADVICE}`,
    );
  }
  // Of a compressed answer, Content-Length is the compressed length, and so no use here.
  const encoded = answer.headers.get("content-encoding");
  const total = bytes ?? (encoded ? 0 : Number(answer.headers.get("content-length") ?? 0));
  return joined(await allParts(answer, url, total, report));
}

async function allParts(answer, url, total, report) {
  const parts = [];
  let received = 0;
  try {
    const reader = answer.body.getReader();
    for (let part = await reader.read(); !part.done; part = await reader.read()) {
      parts.push(part.value);
      received += part.value.length;
      report(received, Math.max(total, received));
    }
  } catch {
    throw new FileError(
      `The file ${shortName(url)} stopped arriving after ${received} bytes. ` +
        "Look at your connection and reload the page.",
    );
  }
  return parts;
}

function joined(parts) {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

/** What is wrong with a file, as the end of a sentence; null if nothing is. */
function fault(content, { bytes, crc32: sum }) {
  const start = new TextDecoder().decode(content.subarray(0, 100));
  if (/^\s*<(!doctype|html)/i.test(start)) {
    return "is not there: the server sends a web page in its place";
  }
  if (bytes !== undefined && content.length !== bytes) {
    return `is damaged: it has ${content.length} bytes in place of ${bytes}`;
  }
  if (sum !== undefined && crc32(content) !== sum) return "is damaged: its checksum is wrong";
  return null;
}

/** A file's last two names, such as "model/unet.onnx". */
function shortName(url) {
  return url.pathname.split("/").slice(-2).join("/");
}

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let rest = byte;
  for (let bit = 0; bit < 8; bit++) rest = rest & 1 ? (rest >>> 1) ^ 0xedb88320 : rest >>> 1;
  return rest;
});

/**
 * The CRC-32 of ZIP and PNG files (zlib.crc32 in Python).
 *
 * @param {Uint8Array} content
 * @returns {number}
 */
export function crc32(content) {
  let rest = 0xffffffff;
  for (let i = 0; i < content.length; i++) {
    rest = CRC_TABLE[(rest ^ content[i]) & 0xff] ^ (rest >>> 8);
  }
  return (rest ^ 0xffffffff) >>> 0;
}
