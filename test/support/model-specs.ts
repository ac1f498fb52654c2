// How the model test says to an arena what to make: specs, batches, lists.
import {
  type Executor,
  type ExecutorBatch,
  type ExecutorSpec,
  relocKindNumbers,
  type Section,
  TargetKind,
} from 'jit-arena';
import type { Random } from '../../dist/stress/program/random';
import { type ModelExecutor, publicReloc } from './model.js';

export const sections: readonly Section[] = ['code', 'data', 'state'];

export function specOf({ program, bytes, name, aligns }: ModelExecutor, random: Random): ExecutorSpec {
  const aligned = random.chance(0.2);
  if (aligned) for (const section of sections) aligns[section] = 2 ** random.below(9);
  return {
    ...(aligned && { align: aligns.code, dataAlign: aligns.data, stateAlign: aligns.state }),
    ...(random.chance(0.2) && { movable: false }),
    ...(random.chance(0.5) && { name }),
    ...(program.entries && { entries: program.entries }),
    ...(bytes.data.length > 0 && { data: bytes.data }),
    ...(bytes.state.length > 0 && { state: bytes.state }),
    code: bytes.code,
  };
}

export const withRelocs = (executor: ModelExecutor, random: Random): ExecutorSpec => ({
  ...specOf(executor, random),
  relocs: random.shuffle(executor.relocs.map(publicReloc)),
});

/** One of the ways to name executors. */
export function listOf(
  executors: readonly ModelExecutor[],
  random: Random,
): Executor | (Executor | number)[] | Float64Array {
  const [first] = executors;
  if (executors.length === 1 && random.chance(0.5)) return first!.handle;
  if (random.chance(0.3)) return Float64Array.from(executors, ({ id }) => id);
  return executors.map(({ handle, id }) => (random.chance(0.5) ? handle : id));
}

/** The executors as one call of installBatch takes them. */
export function batchOf(planned: readonly ModelExecutor[]): ExecutorBatch {
  const offsets = (section: 'code' | 'data') => {
    let end = 0;
    return [0, ...planned.map(({ bytes }) => (end += bytes[section].length))];
  };
  const all = (section: 'code' | 'data') =>
    new Uint8Array(Buffer.concat(planned.map(({ bytes }) => Buffer.from(bytes[section]))));
  const relocs = planned.flatMap((executor, position) => executor.relocs.map((reloc) => ({ ...reloc, position })));
  const ownKinds = { code: TargetKind.ownCode, data: TargetKind.ownData, state: TargetKind.ownState };
  const targets = relocs.map(({ target }): [number, number, bigint] => {
    if ('own' in target) return [ownKinds[target.own], target.offset, 0n];
    if ('address' in target) return [TargetKind.address, 0, target.address];
    const mate = planned.indexOf(target.executor);
    return mate < 0 ? [TargetKind.executor, target.executor.id, 0n] : [TargetKind.batchMember, mate, 0n];
  });
  return {
    code: all('code'),
    codeOffsets: offsets('code'),
    data: all('data'),
    dataOffsets: Float64Array.from(offsets('data')),
    relocs: {
      executor: relocs.map(({ position }) => position),
      section: relocs.map(({ section }) => (section === 'code' ? 0 : 1)),
      offset: Uint32Array.from(relocs, ({ offset }) => offset),
      kind: Uint8Array.from(relocs, ({ kind }) => relocKindNumbers[kind]),
      targetKind: targets.map(([kind]) => kind),
      target: Float64Array.from(targets, ([, target]) => target),
      address: BigUint64Array.from(targets, ([, , address]) => address),
      addend: relocs.map(({ addend }) => addend),
    },
  };
}
