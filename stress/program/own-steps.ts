// Steps with relocs to the executor's own data and code.
import type { Block } from './blocks';
import type { ModelBuilder } from './model';
import type { Emitter, Step } from './step';
import { valueIn, WORD_BYTES, type Word, type Words } from './words';
import { type Mix, SIZE } from './x64';

/** Mixes in a data word, relative to the instruction. */
export class WordStep implements Step {
  readonly size = SIZE.mixWord;

  constructor(
    readonly mix: Mix,
    readonly word: Word,
    readonly words: Words,
  ) {}

  encode(out: Emitter): void {
    const { word, words } = this;
    const wrong = () => ({ own: 'data', offset: words.differentFrom(word).offset }) as const;
    out.codeSite(out.code.mixWord(this.mix), 'R_X86_64_PC32', { own: 'data', offset: word.offset }, wrong);
  }

  explain(model: ModelBuilder): void {
    model[this.mix](valueIn(this.word));
  }
}

/** Takes the absolute address of own data and mixes in what lies there. */
export class PointedWordStep implements Step {
  readonly size = SIZE.loadConstant + SIZE.mixPointed;

  constructor(
    readonly mix: Mix,
    readonly word: Word,
    readonly words: Words,
  ) {}

  encode(out: Emitter): void {
    const { word, words } = this;
    const wrong = () => ({ own: 'data', offset: words.differentFrom(word).offset }) as const;
    out.codeSite(out.code.loadConstant(), 'R_X86_64_64', { own: 'data', offset: word.offset }, wrong);
    out.code.mixPointed(this.mix);
  }

  explain(model: ModelBuilder): void {
    model[this.mix](valueIn(this.word));
  }
}

/** Takes the absolute address of the data section and mixes in many words; not the last, so that a word follows each. */
export class PointedWordsStep implements Step {
  readonly size: number;

  constructor(
    readonly mix: Mix,
    readonly words: readonly Word[],
  ) {
    this.size = SIZE.loadConstant + words.length * SIZE.mixPointedAt;
  }

  encode(out: Emitter): void {
    const wrong = () => ({ own: 'data', offset: WORD_BYTES }) as const;
    out.codeSite(out.code.loadConstant(), 'R_X86_64_64', { own: 'data', offset: 0 }, wrong);
    for (const word of this.words) out.code.mixPointedAt(this.mix, word.offset);
  }

  explain(model: ModelBuilder): void {
    for (const word of this.words) model[this.mix](valueIn(word));
  }
}

/** Mixes in how far apart two data words are: one address absolute, one relative to the instruction. */
export class DataDistanceStep implements Step {
  readonly size = SIZE.loadConstant + SIZE.loadAddress + 2 * SIZE.mixRegister;

  constructor(
    readonly mix: Mix,
    readonly to: Word,
    readonly from: Word,
    readonly words: Words,
  ) {}

  encode(out: Emitter): void {
    const { to, from, words } = this;
    const anotherThan = (word: Word) => ({ own: 'data', offset: words.differentFrom(word).offset }) as const;
    out.codeSite(out.code.loadConstant(), 'R_X86_64_64', { own: 'data', offset: to.offset }, () => anotherThan(to));
    const field = out.code.loadAddress();
    out.codeSite(field, 'R_X86_64_PC32', { own: 'data', offset: from.offset }, () => anotherThan(from));
    out.code.subtractAddress();
    out.code.mixScratch(this.mix);
  }

  explain(model: ModelBuilder): void {
    model[this.mix](BigInt(this.to.offset - this.from.offset));
  }
}

/** Mixes in how far apart two blocks are: one address absolute, one that needs no reloc within the same code. */
export class CodeDistanceStep implements Step {
  readonly size = SIZE.loadConstant + SIZE.loadAddress + 2 * SIZE.mixRegister;

  constructor(
    readonly mix: Mix,
    readonly to: Block,
    readonly from: Block,
  ) {}

  encode(out: Emitter): void {
    const { to, from } = this;
    const wrong = () => ({ own: 'code', offset: to.offset + to.size - to.end.size }) as const;
    out.codeSite(out.code.loadConstant(), 'R_X86_64_64', { own: 'code', offset: to.offset }, wrong);
    out.code.loadOwnCodeAddress(from.offset);
    out.code.subtractAddress();
    out.code.mixScratch(this.mix);
  }

  explain(model: ModelBuilder): void {
    model[this.mix](BigInt(this.to.offset - this.from.offset));
  }
}
