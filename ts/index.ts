export { Arena, type ArenaOptions, type Callback } from './arena';
export { ArenaError, type ErrorDetails, type Section } from './errors';
export { Executor } from './executor';
export { machine, probe, symbolAddress } from './machine';
export { type Reloc, type RelocKind, type RelocTarget, relocKindNumbers, TargetKind } from './relocs';
export type {
  CollectOptions,
  CollectResult,
  CompactionPlan,
  ExecutorBatch,
  ExecutorSpec,
  FoundAddress,
  SlabMap,
  Stats,
  Verification,
} from './types';
export type { CallbackFunction, MachineFunction, Pointer, Signature, ValueFor, ValueOf, ValueType } from './values';
