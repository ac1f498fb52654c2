// The same classes for import: one native instance, one identity.
import jitArena from './index.js';

export const { Arena, ArenaError, Executor, machine, probe, relocKindNumbers, symbolAddress, TargetKind } = jitArena;
