// The same classes for import: one native instance, one identity.
import jitArena from './index.js';

export const {
  Arena,
  ArenaError,
  Executor,
  InstalledObject,
  LoadedObject,
  loadObject,
  machine,
  probe,
  relocKindNumbers,
  Stencil,
  StencilSet,
  symbolAddress,
  TargetKind,
  TraceBuilder,
} = jitArena;
