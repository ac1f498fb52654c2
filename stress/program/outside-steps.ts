// Steps with relocs to what lies outside the executor: constants, C symbols, C functions and helper executors.
import type { RelocTarget } from 'jit-arena';
import type { ModelBuilder } from './model';
import type { Emitter, Step } from './step';
import { anotherCallee, type Callee, calleeIn, isHelper, targetOf, type Word, type Words } from './words';
import { another, type ExternalFunction, type ExternalSymbol, type Helper, type World } from './world';
import { type Mix, SIZE } from './x64';

/** Mixes in an absolute 64-bit value. */
export class ConstantStep implements Step {
  readonly size = SIZE.loadConstant + SIZE.mixRegister;

  constructor(
    readonly mix: Mix,
    readonly value: bigint,
  ) {}

  encode(out: Emitter): void {
    const wrong = () => ({ address: this.value ^ 1n });
    out.codeSite(out.code.loadConstant(), 'R_X86_64_64', { address: this.value }, wrong);
    out.code.mixScratch(this.mix);
  }

  explain(model: ModelBuilder): void {
    model[this.mix](this.value);
  }
}

/** Ways to the address of a symbol: in the instruction, in a GOT slot (three kinds, two instructions), or relative. */
export type SymbolForm = 'R_X86_64_64' | 'R_X86_64_GOTPCREL' | 'R_X86_64_REX_GOTPCRELX' | 'R_X86_64_PC64';

/** Mixes in the address of a C symbol. */
export class SymbolStep implements Step {
  readonly size: number;

  constructor(
    readonly mix: Mix,
    readonly symbol: ExternalSymbol,
    readonly form: SymbolForm,
    readonly world: World,
  ) {
    this.size = {
      R_X86_64_64: SIZE.loadConstant + SIZE.mixRegister,
      R_X86_64_GOTPCREL: SIZE.mixWord,
      R_X86_64_REX_GOTPCRELX: SIZE.loadWord + SIZE.mixRegister,
      R_X86_64_PC64: SIZE.loadConstant + SIZE.loadAddress + 2 * SIZE.mixRegister,
    }[form];
  }

  encode(out: Emitter): void {
    const { code } = out;
    const { form, mix, symbol, world } = this;
    const field =
      form === 'R_X86_64_GOTPCREL'
        ? code.mixWord(mix)
        : form === 'R_X86_64_REX_GOTPCRELX'
          ? code.loadWord()
          : code.loadConstant();
    const wrong = () => ({ address: another(world.symbols, symbol).address });
    out.codeSite(field, form, { address: symbol.address }, wrong);
    if (form === 'R_X86_64_GOTPCREL') return;
    if (form === 'R_X86_64_PC64') {
      code.loadOwnCodeAddress(field); // the field holds symbol - field
      code.addAddress();
    }
    code.mixScratch(mix);
  }

  explain(model: ModelBuilder): void {
    model[this.mix](this.symbol.address);
  }
}

/** Ways to call: directly, through an address in the instruction, a GOT slot, or a word of own data. */
export type CallForm = 'R_X86_64_PLT32' | 'R_X86_64_64' | 'R_X86_64_GOTPCRELX' | { slot: Word; words: Words };

/** Calls a C function with a constant and mixes in the result. */
export class FunctionStep implements Step {
  readonly size: number;
  readonly calls = true;

  constructor(
    readonly mix: Mix,
    readonly callee: ExternalFunction,
    readonly argument: number,
    readonly form: CallForm,
    readonly world: World,
  ) {
    this.size = SIZE.moveArgument + callSize(form) + SIZE.normaliseResult + SIZE.mixRegister;
  }

  encode(out: Emitter): void {
    out.code.moveArgument(this.argument);
    encodeCall(out, this.callee, this.form, this.world);
    out.code.normaliseResult();
    out.code.mixResult(this.mix);
  }

  explain(model: ModelBuilder): void {
    model[this.mix](BigInt(this.callee.result(this.argument)));
  }
}

/** Lets a helper executor change the hash. */
export class HelperStep implements Step {
  readonly size: number;
  readonly calls = true;

  constructor(
    readonly callee: Helper,
    readonly form: CallForm,
    readonly world: World,
  ) {
    this.size = SIZE.moveRegister + callSize(form) + SIZE.moveRegister;
  }

  encode(out: Emitter): void {
    out.code.moveHashToArgument();
    encodeCall(out, this.callee, this.form, this.world);
    out.code.moveResultToHash();
  }

  explain(model: ModelBuilder): void {
    model.call(this.callee.model);
  }
}

/** The step that uses a data word which holds something to call. */
export function callThrough(slot: Word, words: Words, mix: Mix, argument: number, world: World): Step {
  const callee = calleeIn(slot);
  const form = { slot, words };
  return isHelper(callee) ? new HelperStep(callee, form, world) : new FunctionStep(mix, callee, argument, form, world);
}

function callSize(form: CallForm): number {
  if (form === 'R_X86_64_PLT32') return SIZE.call;
  return form === 'R_X86_64_64' ? SIZE.loadConstant + SIZE.callIndirect : SIZE.callThroughSlot;
}

function encodeCall(out: Emitter, callee: Callee, form: CallForm, world: World): void {
  const { code } = out;
  if (typeof form === 'object') {
    const { slot, words } = form;
    const wrong = () => ({ own: 'data', offset: words.callableInsteadOf(slot).offset }) as const;
    out.codeSite(code.callThroughSlot(), 'R_X86_64_PC32', { own: 'data', offset: slot.offset }, wrong);
    return;
  }
  const target: RelocTarget = targetOf(callee);
  const wrong = () => targetOf(anotherCallee(world, callee));
  if (form === 'R_X86_64_PLT32') out.codeSite(code.call(), form, target, wrong);
  if (form === 'R_X86_64_GOTPCRELX') out.codeSite(code.callThroughSlot(), form, target, wrong);
  if (form === 'R_X86_64_64') {
    out.codeSite(code.loadCallee(), form, target, wrong);
    code.callResult();
  }
}
