// Decides what the words of an executor's data hold.
import type { Random } from './random';
import { type Callee, WORD_BYTES, type Word, Words } from './words';
import type { Shape } from './workload';
import type { World } from './world';

/** Of the words that hold an address, how many hold one that is called. */
const CALLABLE_SHARE = 0.15;

/** @param data random bytes, which are what the words hold unless they get a reloc */
export function makeWords({ holes }: Shape, data: Uint8Array, random: Random, world: World): Words {
  const view = new DataView(data.buffer);
  const words: Word[] = [];
  for (let offset = 0; offset + WORD_BYTES <= data.length; offset += WORD_BYTES) {
    words.push({ offset, content: { number: view.getBigUint64(offset, true) } });
  }
  // Never the last word: PointedWordsStep wants one behind each.
  const slots = random.shuffle(words.slice(0, -1)).slice(0, holes.symbolsInData);
  if (slots.length < holes.symbolsInData) {
    throw new Error(`${data.length} bytes of data have no room for ${holes.symbolsInData} addresses`);
  }
  for (const slot of slots) slot.content = { symbol: random.pick(world.symbols) };

  // A word is called through where it is reached by itself. Always two with different callees, so that a call through
  // the wrong one shows.
  if (slots.length >= 2 && holes.ownLoads >= slots.length) {
    const callees: Callee[] = random.shuffle([...world.functions, ...world.helpers]);
    const callable = slots.slice(0, Math.max(2, Math.round(slots.length * CALLABLE_SHARE)));
    for (const [i, slot] of callable.entries()) slot.content = { callee: callees[i % callees.length]! };
  }
  return new Words(words);
}
