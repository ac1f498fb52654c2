// Views that say of themselves what is not so, and every public function that takes memory.
import vm from 'node:vm';
import { type Arena, loadObject, StencilSet, TraceBuilder } from 'jit-arena';
import { Code } from './assembler.js';
import { canCompile, compile } from './compile.js';
import { constant, jump, toI32 } from './x64.js';

type View = Uint8Array | Float64Array | DataView;

const own =
  (properties: Record<string | symbol, unknown>) =>
  <V extends View>(view: V): V => {
    for (const key of Reflect.ownKeys(properties))
      Object.defineProperty(view, key, { value: properties[key as string] });
    return view;
  };

const getters = {
  get buffer() {
    return new ArrayBuffer(4096);
  },
  get byteLength() {
    return 4096;
  },
  get byteOffset() {
    return 0;
  },
  get length() {
    return 4096;
  },
  [Symbol.iterator]: () => [][Symbol.iterator](),
};

class Foreign {
  static get [Symbol.species]() {
    return Foreign;
  }
  readonly length = 1;
}

/** Each makes a liar of a view, in place, and returns it. The memory stays what it is. */
export const lies: Record<string, <V extends View>(view: V) => V> = {
  'a buffer of its own': own({ buffer: new ArrayBuffer(4096) }),
  'a shared buffer of its own': own({ buffer: new SharedArrayBuffer(4096) }),
  'a buffer that is none': own({ buffer: undefined }),
  'a byteLength that is too large': own({ byteLength: 4096 }),
  'a byteLength of 0': own({ byteLength: 0 }),
  'a byteOffset of its own': own({ byteOffset: 64 }),
  'a length that is too large': own({ length: 4096 }),
  'a length of 0': own({ length: 0 }),
  'all four': own({ buffer: new ArrayBuffer(4096), byteLength: 4096, byteOffset: 8, length: 4096 }),
  'a tag of its own': own({ [Symbol.toStringTag]: 'Uint8Array' }),
  'another class and species': own({ constructor: Foreign }),
  'methods of its own': own({
    set: () => undefined,
    slice: () => [],
    subarray: () => [],
    [Symbol.iterator]: () => ({}),
  }),
  'getters of a subclass': (view) => Object.setPrototypeOf(view, Object.setPrototypeOf(getters, Uint8Array.prototype)),
  'the prototype of a DataView': (view) => Object.setPrototypeOf(view, DataView.prototype),
  'the prototype of another array': (view) => Object.setPrototypeOf(view, Int16Array.prototype),
  'no prototype': (view) => Object.setPrototypeOf(view, null),
};

/** What takes memory. `view` makes one of the elements that it wants; the result is the same whatever it says of itself. */
export interface Taker {
  name: string;
  /** Whether it keeps no address, but copies what it finds: then memory that can change its size is fine. */
  copies?: true;
  take(arena: Arena, view: <V extends View>(good: V) => V): unknown;
}

/** mov rax, [rdi]; ret */
const load = Uint8Array.of(0x48, 0x8b, 0x07, 0xc3);
const words = (...values: number[]) => Float64Array.of(...values);
const seven = () => Uint8Array.of(...constant(7), 0xcc, 0xcc);
const trace = () => new Code().mark(1).exitWhileToTake(0).done().spec();
const readAll = (arena: Arena) =>
  arena.executors().map((e) => (['code', 'data', 'state'] as const).map((s) => [...e.read(s)]));

export const takers: Taker[] = [
  ...(['code', 'data', 'state'] as const).flatMap((section): Taker[] => [
    {
      name: `allocate: ${section}`,
      take(arena, view) {
        arena.allocate({ code: 1, [section]: view(seven()) });
        return readAll(arena);
      },
    },
    {
      name: `install: ${section}`,
      take(arena, view) {
        arena.install({ code: 1, [section]: view(seven()) });
        return readAll(arena);
      },
    },
    {
      name: `write: ${section}`,
      take(arena, view) {
        const executor = arena.allocate({ code: 16, data: 16, state: 16 });
        executor.write(section, 3, view(seven()));
        return readAll(arena);
      },
    },
  ]),
  {
    name: 'install of a list',
    take(arena, view) {
      arena.install([{ code: 1 }, { code: view(seven()) }]);
      return readAll(arena);
    },
  },
  {
    name: 'installBatch: code',
    take(arena, view) {
      arena.installBatch({ code: view(seven()), codeOffsets: [0, 2, 8] });
      return readAll(arena);
    },
  },
  {
    name: 'installBatch: data',
    take(arena, view) {
      arena.installBatch({ code: seven(), codeOffsets: [0, 2, 8], data: view(seven()), dataOffsets: [1, 3, 8] });
      return readAll(arena);
    },
  },
  {
    name: 'freeze: ids',
    take(arena, view) {
      const [a, b] = [arena.allocate({ code: 8 }), arena.allocate({ code: 8 })];
      arena.freeze(view(words(a.id, b.id)));
      return [a.state, b.state];
    },
  },
  {
    name: 'free: ids',
    take(arena, view) {
      const [a, b] = [arena.allocate({ code: 8 }), arena.install({ code: 8 })];
      arena.free(view(words(a.id, b.id)));
      return [a.state, b.state];
    },
  },
  {
    name: 'a pointer',
    take(arena, view) {
      return arena.install({ code: load }).func({ args: ['pointer'], returns: 'u64' })(view(seven()));
    },
  },
  {
    name: 'the second of two pointers',
    take(arena, view) {
      // mov rax, [rsi]; ret
      const second = arena.install({ code: Uint8Array.of(0x48, 0x8b, 0x06, 0xc3) });
      return second.func({ args: ['pointer', 'pointer'], returns: 'u64' })({ address: 5n }, view(seven()));
    },
  },
  {
    name: 'a pointer to a DataView',
    take(arena, view) {
      const dataView = new DataView(seven().buffer);
      return arena.install({ code: load }).func({ args: ['pointer'], returns: 'u64' })(view(dataView));
    },
  },
  {
    name: "a callback's result",
    take(arena, view) {
      const good = seven();
      const callback = arena.callback({ args: [], returns: 'pointer' }, () => view(good));
      const address = arena.install(jump(callback)).func({ args: [], returns: 'u64' })();
      return arena.install({ code: load }).func({ args: ['pointer'], returns: 'u64' })(address);
    },
  },
  {
    name: 'a context',
    take(arena, view) {
      const context = view(words(0, 0));
      const token = arena.runner(context)(arena.install(trace()));
      return [token, [...new BigInt64Array(memoryOf(context))]];
    },
  },
  {
    name: 'a context that is a DataView',
    take(arena, view) {
      const context = view(new DataView(new ArrayBuffer(16)));
      const token = arena.runner(context)(arena.install(trace()));
      return [token, [...new BigInt64Array(memoryOf(context))]];
    },
  },
  {
    name: 'entries',
    copies: true,
    take(arena, view) {
      const entries = view(words(0, 6));
      const executor = arena.install({ code: Uint8Array.of(...constant(1), ...constant(2)), entries });
      return [0, 1].map((entry) => executor.func(toI32, { entry })());
    },
  },
  {
    name: 'exitTags',
    copies: true,
    take(arena, view) {
      const executor = arena.install({ ...trace(), exitTags: view(words(41)) });
      return arena.exitTag(arena.runner(words(0, Number.MIN_VALUE))(executor));
    },
  },
  {
    name: 'installBatch: offsets',
    copies: true,
    take(arena, view) {
      const [codeOffsets, dataOffsets] = [view(words(0, 2, 8)), view(words(1, 3, 8))];
      arena.installBatch({ code: seven(), codeOffsets, data: seven(), dataOffsets });
      return readAll(arena);
    },
  },
  {
    name: 'installBatch: columns of relocs',
    copies: true,
    take(arena, view) {
      const column = (...values: number[]) => view(words(...values));
      const relocs = {
        executor: column(0, 1),
        section: column(0, 1),
        offset: column(0, 0),
        kind: column(2, 24),
        targetKind: column(1, 0),
        target: column(1, 2),
        addend: column(-4, 8),
      };
      const offsets = [0, 16, 32];
      const [code, data] = [new Uint8Array(32), new Uint8Array(32)];
      arena.installBatch({ code, codeOffsets: offsets, data, dataOffsets: offsets, relocs });
      return readAll(arena);
    },
  },
  ...(canCompile ? objectTakers() : []),
];

function objectTakers(): Taker[] {
  const object = compile('recursion.c', ['-O2', '-fPIC']);
  const stencils = compile('stencils.c', [
    '-O2',
    '-fno-pic',
    '-mcmodel=large',
    '-ffunction-sections',
    '-fdata-sections',
  ]);
  const set = StencilSet.fromObject(stencils);
  const saved = set.save();
  return [
    {
      name: 'loadObject',
      take(arena, view) {
        return loadObject(view(new Uint8Array(object)))
          .install(arena)
          .func('is_even', { args: ['i32'], returns: 'i32' })(10);
      },
    },
    { name: 'StencilSet.fromObject', take: (_, view) => StencilSet.fromObject(view(new Uint8Array(stencils))).save() },
    { name: 'StencilSet.load', take: (_, view) => StencilSet.load(view(new Uint8Array(saved))).save() },
    ...(['data', 'state'] as const).map(
      (section): Taker => ({
        name: `TraceBuilder: ${section}`,
        take(arena, view) {
          const stencil = [...set].find(({ holes }) => holes.length === 0);
          if (stencil === undefined) throw new Error('stencils.c has no stencil without holes');
          new TraceBuilder().emit(stencil).install(arena, { [section]: view(seven()) });
          return readAll(arena);
        },
      }),
    ),
  ];
}

const bufferOf = Object.getOwnPropertyDescriptor(Object.getPrototypeOf(Uint8Array.prototype), 'buffer')
  ?.get as () => ArrayBuffer;
const bufferOfDataView = Object.getOwnPropertyDescriptor(DataView.prototype, 'buffer')?.get as () => ArrayBuffer;

/** The memory under a view. */
export function memoryOf(view: View): ArrayBuffer {
  try {
    return bufferOf.call(view);
  } catch {
    return bufferOfDataView.call(view);
  }
}

/** The same view of other memory: what `wrap` makes of the bytes. */
export function inMemory<V extends View>(view: V, wrap: (bytes: Uint8Array) => ArrayBufferLike): V {
  const bytes = new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
  return new (view.constructor as new (buffer: ArrayBufferLike) => V)(wrap(bytes));
}

/** The same view, made in another realm. */
const realm = vm.createContext({});
export function inOtherRealm<V extends View>(view: V): V {
  const bytes = [...new Uint8Array(view.buffer, view.byteOffset, view.byteLength)];
  return vm.runInContext(`new ${view.constructor.name}(Uint8Array.of(${bytes}).buffer)`, realm) as V;
}
