// Own data: eight-byte words with a random number, the address of a C symbol, or the address of something to call.
import type { RelocTarget } from 'jit-arena';
import type { Shape } from '../recording/workload';
import type { Random } from './random';
import type { Emitter } from './step';
import { another, type ExternalFunction, type ExternalSymbol, type Helper, type World } from './world';

export const WORD_BYTES = 8;

export type Callee = ExternalFunction | Helper;

export const isHelper = (callee: Callee): callee is Helper => 'executor' in callee;

export type Content = { number: bigint } | { symbol: ExternalSymbol } | { callee: Callee };

export interface Word {
  /** In the data section, in bytes. */
  offset: number;
  content: Content;
}

/** What the code finds in a word that is not called. The address of a helper is not known: it moves. */
export function valueIn(word: Word): bigint {
  if ('number' in word.content) return word.content.number;
  if ('symbol' in word.content) return word.content.symbol.address;
  throw new Error(`the word at ${word.offset} is for calling`);
}

export function calleeIn(word: Word): Callee {
  if ('callee' in word.content) return word.content.callee;
  throw new Error(`the word at ${word.offset} is not for calling`);
}

export function targetOf(callee: Callee): RelocTarget {
  return isHelper(callee) ? callee.executor : { address: callee.address };
}

export function anotherCallee(world: World, callee: Callee): Callee {
  return isHelper(callee) ? another(world.helpers, callee) : another(world.functions, callee);
}

export class Words {
  constructor(readonly all: readonly Word[]) {}

  encode(out: Emitter, world: World, data: Uint8Array): void {
    const view = new DataView(data.buffer);
    for (const { offset, content } of this.all) {
      if ('number' in content) {
        view.setBigUint64(offset, content.number, true);
      } else if ('symbol' in content) {
        const { symbol } = content;
        const wrong = () => ({ address: another(world.symbols, symbol).address });
        out.site('data', offset, 'R_X86_64_64', { address: symbol.address }, wrong);
      } else {
        const { callee } = content;
        out.site('data', offset, 'R_X86_64_64', targetOf(callee), () => targetOf(anotherCallee(world, callee)));
      }
    }
  }

  /** All that do not simply hold a number. */
  withReloc(): Word[] {
    return this.all.filter(({ content }) => !('number' in content));
  }

  /** A word that holds something else. */
  differentFrom(word: Word): Word {
    return this.next(word, (other) => {
      if ('symbol' in other.content && 'symbol' in word.content) return other.content.symbol !== word.content.symbol;
      return true;
    });
  }

  /** A word with another thing to call. */
  callableInsteadOf(word: Word): Word {
    return this.next(word, ({ content }) => 'callee' in content && content.callee !== calleeIn(word));
  }

  private next(word: Word, accept: (other: Word) => boolean): Word {
    const start = this.all.indexOf(word);
    for (let i = 1; i < this.all.length; i++) {
      const other = this.all[(start + i) % this.all.length]!;
      if (accept(other)) return other;
    }
    throw new Error(`no word can take the place of the one at ${word.offset}`);
  }
}

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
