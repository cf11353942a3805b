// The tokens of a prompt: which belong together as a word, and which is the first noun.

const END = /<\/w>$/;
export const plain = (piece) => piece.replace(END, "");

// pieces -> [{ text, from, to }], words as ranges of tokens. Token 0 is the start token, so the first
// piece is token 1.
export function wordsOf(pieces) {
  const words = [];
  let text = "", from = 1;
  pieces.forEach((piece, i) => {
    text += plain(piece);
    if (!END.test(piece) && pieces.some((each) => END.test(each))) return;
    words.push({ text, from, to: i + 1 });
    text = "";
    from = i + 2;
  });
  return words;
}

// The token to look at first: the first word that names an object, else the first longer word.
export function firstNoun(pieces, nouns) {
  if (!pieces.length) return null;
  const words = wordsOf(pieces);
  const forms = new Set([...nouns].flatMap((noun) => [noun, `${noun}s`]));
  const found = words.find(({ text }) => forms.has(text)) ?? words.find(({ text }) => text.length > 3);
  return Math.min((found ?? words[0])?.to ?? 1, 75);
}
