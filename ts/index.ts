export { Arena, type Callback } from './arena';
export type { ArenaOptions } from './arena-options';
export { ArenaError, type ErrorDetails, type Section } from './errors';
export { Executor } from './executor';
export type { ArenaEvent, ArenaListener } from './listeners';
export { machine, probe, symbolAddress } from './machine';
export {
  type ExecutorPlace,
  InstalledObject,
  type InstallOptions,
  LoadedObject,
  type LoadOptions,
  loadObject,
  type ObjectSymbol,
  type SymbolQuestion,
} from './objects';
export type { Pin } from './pin';
export { type Reloc, type RelocKind, type RelocTarget, relocKindNumbers, TargetKind } from './relocs';
export type { Runner } from './runner';
export type { ShareToken } from './sharing';
export type { CallbackFunction, MachineFunction, Pointer, Signature, ValueFor, ValueOf, ValueType } from './signature';
export { Stencil, StencilSet } from './stencils';
export { type HoleFilling, TraceBuilder, type TraceOptions, type TraceStatistics } from './trace-builder';
export type {
  CollectOptions,
  CollectResult,
  CompactionPlan,
  ExecutorBatch,
  ExecutorSpec,
  ExitTaken,
  FoundAddress,
  SlabMap,
  Stats,
  Verification,
} from './types';
