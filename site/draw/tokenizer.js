// CLIP's tokenizer: a prompt becomes 77 token ids, the same as in Python.
//
// A prompt is cut into words, a word into the letters of its bytes, and the letters are joined
// again, pair by pair, in the order in which the tokenizer learnt the pairs from the training
// captions (byte-pair encoding). Frequent words end as one token, rare ones as several pieces, and
// nothing is ever unknown, because every byte is a token.

export const START = "<|startoftext|>";
export const END = "<|endoftext|>";
const LENGTH = 77; // tokens that the text encoder reads, START and END included
const LONGEST = 100_000; // characters, as in Python
const END_OF_WORD = "</w>"; // marks the last piece of a word: "cat" is not the "cat" of "catch"

// English endings, then runs of letters, single digits, runs of anything else. JavaScript's \s is
// not Unicode's white space: it lacks U+0085 and has U+FEFF.
const WORD = /'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\p{White_Space}\p{L}\p{N}]+/gu;
const SPECIAL = /(<\|startoftext\|>|<\|endoftext\|>)/;

// For the words of a prompt that no training caption has: letters and digits, joined by hyphens.
const SPOKEN = /[\p{L}\p{N}]+(?:-[\p{L}\p{N}]+)*/gu;

// Each byte has a letter, because pairs are stored as text. Bytes that cannot be printed, such as
// that of the space, take the letters from U+0100 on.
const LETTERS = (() => {
  const printable = (b) => (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
  let next = 256;
  return Array.from({ length: 256 }, (_, b) => String.fromCharCode(printable(b) ? b : next++));
})();
const BYTES = new Map(LETTERS.map((letter, byte) => [letter, byte]));

/** The tokenizer of one model. */
export class Tokenizer {
  /**
   * @param {Object<string, number>} vocabulary vocab.json: the id of each token.
   * @param {string} merges merges.txt: the learnt pairs, a pair a line, the first one first.
   */
  constructor(vocabulary, merges) {
    this.vocabulary = new Map(Object.entries(vocabulary));
    const lines = merges.split("\n").map((line) => line.trim());
    const pairs = lines.filter((line) => line && !line.startsWith("#version"));
    this.ranks = new Map(pairs.map((pair, rank) => [pair, rank]));
  }

  /**
   * Tokenize a prompt.
   *
   * @param {string} prompt
   * @returns {{ids: number[], pieces: string[], cut: number}} The 77 ids; the text of every token of
   *   the prompt, so that pieces[i] belongs to ids[i + 1], after START; and how many of the last
   *   ones did not fit. A piece that ends a word ends in "</w>".
   * @throws {RangeError} If the prompt is not a text, is too long, or holds half a character.
   */
  encode(prompt) {
    const tokens = this.tokens(checked(prompt));
    const kept = [START, ...tokens.slice(0, LENGTH - 2), END];
    const ids = kept.map((token) => this.vocabulary.get(token));
    const padding = Array(LENGTH - ids.length).fill(this.vocabulary.get(END));
    const cut = Math.max(tokens.length - (LENGTH - 2), 0);
    return { ids: [...ids, ...padding], pieces: tokens.map(readable), cut };
  }

  /**
   * All tokens of a text, without START, END and padding.
   *
   * @param {string} text
   * @returns {string[]}
   */
  tokens(text) {
    // A prompt may name START and END themselves, in exactly these letters.
    return text.split(SPECIAL).flatMap((part) => (part === START || part === END
      ? [part]
      : (lowerCase(part).match(WORD) ?? []).flatMap((word) => this.merge(word))));
  }

  /**
   * The tokens of one word: its bytes, joined pair by pair.
   *
   * @param {string} word
   * @returns {string[]}
   */
  merge(word) {
    let parts = Array.from(new TextEncoder().encode(word), (byte) => LETTERS[byte]);
    parts[parts.length - 1] += END_OF_WORD;
    for (;;) {
      let best = Infinity, at = -1;
      for (let i = 0; i + 1 < parts.length; i++) {
        const rank = this.ranks.get(`${parts[i]} ${parts[i + 1]}`) ?? Infinity;
        if (rank < best) [best, at] = [rank, i];
      }
      if (at < 0) return parts;
      parts = joined(parts, parts[at], parts[at + 1]);
    }
  }
}

/** The parts with every pair of `left` and `right` side by side made one, from the left. */
function joined(parts, left, right) {
  const result = [];
  for (let i = 0; i < parts.length; i++) {
    const pair = parts[i] === left && parts[i + 1] === right;
    result.push(pair ? left + right : parts[i]);
    if (pair) i++;
  }
  return result;
}

/**
 * Composed characters, in lower case. One character at a time, because toLowerCase on a whole
 * word gives a Greek sigma at its end another form, and the tokenizer in Python does not.
 */
function lowerCase(text) {
  return Array.from(text.normalize("NFC"), (character) => character.toLowerCase()).join("");
}

/** A token as a reader writes it. A piece with half a character keeps the letters of its bytes. */
function readable(token) {
  const end = token.endsWith(END_OF_WORD) ? END_OF_WORD : "";
  const letters = token.slice(0, token.length - end.length);
  const bytes = Uint8Array.from(letters, (letter) => BYTES.get(letter));
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes) + end;
  } catch {
    return token;
  }
}

function checked(prompt) {
  if (typeof prompt !== "string") {
    throw new RangeError(`The prompt is ${prompt}; it must be a text.`);
  }
  const length = prompt.length <= LONGEST ? 0 : Array.from(prompt).length;
  if (length > LONGEST) {
    throw new RangeError(
      `The prompt has ${length} characters; it must have at most ${LONGEST}, ` +
        "and the text encoder reads only the first 75 tokens.",
    );
  }
  if (/\p{Surrogate}/u.test(prompt)) {
    throw new RangeError("The prompt holds half a character; type it again, or leave it out.");
  }
  return prompt;
}

/**
 * The words of a prompt that are not in a vocabulary, each once, in order.
 *
 * @param {string} prompt
 * @param {Set<string>} known The words of the training captions.
 * @returns {string[]}
 */
export function unknownWords(prompt, known) {
  const words = prompt.toLowerCase().match(SPOKEN) ?? [];
  return [...new Set(words)].filter((word) => !known.has(word));
}
