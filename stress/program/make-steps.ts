// Makes the steps that the recorded holes ask for, all but the branches.

import type { Shape } from '../recording/workload';
import type { Block } from './blocks';
import { ConstantStep, callThrough, FunctionStep, HelperStep, SymbolStep } from './outside-steps';
import { CodeDistanceStep, DataDistanceStep, PointedWordStep, PointedWordsStep, WordStep } from './own-steps';
import type { Random } from './random';
import type { Step } from './step';
import type { Word, Words } from './words';
import type { World } from './world';
import type { Mix } from './x64';

/** What the parts of the generator share while a function is being made. */
export interface Draft {
  shape: Shape;
  random: Random;
  world: World;
  words: Words;
}

/** Absolute values that never change: one heap object and its fields, other pointers, small numbers. */
export function constantSteps({ shape, random }: Draft): Step[] {
  const { heapPointers, pointers, smallNumbers } = shape.holes;
  const object = anyPointer(random);
  const values: bigint[] = [];
  for (let i = 0; i < heapPointers; i++) values.push(object + BigInt(random.below(64) * 8));
  for (let i = 0; i < pointers; i++) values.push(anyPointer(random));
  for (let i = 0; i < smallNumbers; i++) values.push(BigInt(random.below(2 ** random.below(32))));
  return values.map((value) => new ConstantStep(anyMix(random), value));
}

/** Symbols that code refers to by itself, and loads through GOT slots that are not in its own data. */
export function symbolSteps(draft: Draft): Step[] {
  const { symbols, symbolsInData, gotLoads } = draft.shape.holes;
  const steps: Step[] = [];
  for (let i = symbolsInData; i < symbols; i++) steps.push(symbolStep(draft));
  for (let i = 0; i < gotLoads; i++) steps.push(gotStep(draft));
  return steps;
}

/** How the own addresses of an executor are used; `jumps` of them end blocks. */
export interface OwnAddresses {
  jumps: number;
  codeDistances: number;
  dataDistances: number;
  words: number;
}

/** Shares the own-address holes out. Where relative loads do not reach every word with a reloc, one is kept for these. */
export function shareOwnAddresses({ shape, random, words }: Draft): OwnAddresses {
  const { ownAddresses, ownLoads } = shape.holes;
  const shares: OwnAddresses = { jumps: 0, codeDistances: 0, dataDistances: 0, words: 0 };
  const withReloc = words.withReloc().length;
  let spareLoads = ownLoads - withReloc;
  for (let i = withReloc > ownLoads ? 1 : 0; i < ownAddresses; i++) {
    const use = random.pick(['jumps', 'codeDistances', 'dataDistances', 'words'] as const);
    if (use === 'dataDistances' && spareLoads-- <= 0) shares.words++;
    else shares[use]++;
  }
  return shares;
}

/** Uses every data word that has a reloc, and with what holes are left others. */
export function wordSteps(draft: Draft, own: OwnAddresses): Step[] {
  const { random, shape, words } = draft;
  const { ownAddresses, ownLoads } = shape.holes;
  const reached = words.withReloc();
  const unreached = reached.splice(ownLoads);
  const steps = reached.map((word) => wordStep(draft, word));
  if (unreached.length > 0) {
    if (ownAddresses === 0) throw new Error(`nothing reaches ${unreached.length} data words with relocs`);
    steps.push(new PointedWordsStep(anyMix(random), unreached));
  }
  for (let i = 0; i < own.dataDistances; i++) {
    const [to, from] = random.shuffle([...words.all]);
    steps.push(new DataDistanceStep(anyMix(random), to!, from!, words));
  }
  for (let i = 0; i < own.words; i++) steps.push(new PointedWordStep(anyMix(random), plainWord(draft), words));
  for (let i = reached.length + own.dataDistances; i < ownLoads; i++) steps.push(wordStep(draft, plainWord(draft)));
  return steps;
}

export function codeDistanceSteps({ random }: Draft, own: OwnAddresses, blocks: Block[]): Step[] {
  const distance = () => new CodeDistanceStep(anyMix(random), random.pick(blocks), random.pick(blocks));
  return Array.from({ length: own.codeDistances }, distance);
}

function symbolStep(draft: Draft): Step {
  const { random, world } = draft;
  const dice = random.below(100);
  if (dice < 35) return addressStep(draft, 'R_X86_64_64');
  if (dice < 50) return functionStep(draft, 'R_X86_64_64');
  if (dice < 62) return functionStep(draft, 'R_X86_64_PLT32');
  if (dice < 76) return gotStep(draft);
  if (dice < 80 || world.helpers.length < 2) return addressStep(draft, 'R_X86_64_PC64');
  return new HelperStep(random.pick(world.helpers), dice < 90 ? 'R_X86_64_PLT32' : 'R_X86_64_64', world);
}

function gotStep(draft: Draft): Step {
  const dice = draft.random.below(100);
  if (dice < 40) return addressStep(draft, 'R_X86_64_GOTPCREL');
  if (dice < 80) return addressStep(draft, 'R_X86_64_REX_GOTPCRELX');
  return functionStep(draft, 'R_X86_64_GOTPCRELX');
}

function addressStep({ random, world }: Draft, form: SymbolStep['form']): Step {
  return new SymbolStep(anyMix(random), random.pick(world.symbols), form, world);
}

function functionStep(draft: Draft, form: FunctionStep['form']): Step {
  const { random, world } = draft;
  return new FunctionStep(anyMix(random), random.pick(world.functions), anyArgument(draft), form, world);
}

function wordStep(draft: Draft, word: Word): Step {
  const { random, words, world } = draft;
  const isCalled = 'callee' in word.content;
  if (isCalled) return callThrough(word, words, anyMix(random), anyArgument(draft), world);
  return new WordStep(anyMix(random), word, words);
}

function plainWord({ words, random }: Draft): Word {
  const plain = words.all.filter(({ content }) => 'number' in content);
  if (plain.length === 0) throw new Error('every data word has a reloc');
  return random.pick(plain);
}

/**
 * As the address of something aligned, below 2^46: a quarter of user space in which Linux puts no mapping unasked. A
 * constant that happened to lie in the arena would be refused, as it must be.
 */
function anyPointer(random: Random): bigint {
  return (random.u64() & 0x3fff_ffff_fff0n) | 0x1000n;
}

function anyMix(random: Random): Mix {
  return random.chance(0.5) ? 'add' : 'xor';
}

/** A negative number for which every function of the world has another result. */
function anyArgument({ random, world }: Draft): number {
  for (;;) {
    const argument = random.int32() | 0x80000000;
    const results = new Set(world.functions.map((callee) => callee.result(argument)));
    if (results.size === world.functions.length) return argument;
  }
}
