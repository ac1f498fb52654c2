// Names that a program can replace, in prototypes and in the objects of the language, and what it may put there.
import { types } from 'node:util';
import { Arena, Executor, Stencil } from 'jit-arena';

const typedArray = Object.getPrototypeOf(Uint8Array.prototype) as object;

/** Objects, and the names in them that decide what memory there is, what a value is, or whose an executor is. */
const places: [string, object, readonly (string | symbol)[]][] = [
  ['%TypedArray%.prototype', typedArray, Reflect.ownKeys(typedArray)],
  ['Uint8Array.prototype', Uint8Array.prototype, ['constructor', 'BYTES_PER_ELEMENT']],
  ['%TypedArray%', Object.getPrototypeOf(Uint8Array), ['from', 'of', Symbol.species]],
  ['DataView.prototype', DataView.prototype, ['buffer', 'byteLength', 'byteOffset']],
  ['ArrayBuffer.prototype', ArrayBuffer.prototype, Reflect.ownKeys(ArrayBuffer.prototype)],
  ['SharedArrayBuffer.prototype', SharedArrayBuffer.prototype, Reflect.ownKeys(SharedArrayBuffer.prototype)],
  ['ArrayBuffer', ArrayBuffer, ['isView', Symbol.species, Symbol.hasInstance]],
  ['Uint8Array', Uint8Array, [Symbol.hasInstance]],
  ['Array', Array, ['isArray', 'from', 'of', Symbol.species]],
  ['Array.prototype', Array.prototype, Reflect.ownKeys(Array.prototype).filter((name) => name !== 'length')],
  ['Number', Number, ['isInteger', 'isSafeInteger', 'isFinite', 'isNaN', 'MAX_SAFE_INTEGER']],
  ['BigInt', BigInt, ['asIntN', 'asUintN']],
  ['Math', Math, ['floor', 'max', 'min', 'abs']],
  ['Map.prototype', Map.prototype, ['get', 'set', 'has', 'size']],
  ['WeakMap.prototype', WeakMap.prototype, ['get', 'set', 'has']],
  ['Set.prototype', Set.prototype, ['has', 'add']],
  ['Object', Object, ['freeze', 'entries', 'keys', 'defineProperty', 'getPrototypeOf']],
  ['Reflect', Reflect, ['apply', 'get', 'getOwnPropertyDescriptor', 'getPrototypeOf']],
  ['Function.prototype', Function.prototype, ['call', 'apply', 'bind']],
  ['util.types', types, Reflect.ownKeys(types)],
  ['Executor', Executor, [Symbol.hasInstance]],
  ['Executor.prototype', Executor.prototype, ['id', 'arena', 'address', 'sizes', 'state', 'movable', 'exits']],
  ['Arena', Arena, [Symbol.hasInstance]],
  ['Stencil', Stencil, [Symbol.hasInstance]],
];

export interface Name {
  place: string;
  name: string;
  holder: object;
  key: string | symbol;
}

export const names: Name[] = places.flatMap(([where, holder, keys]) =>
  keys
    .filter((key) => Object.getOwnPropertyDescriptor(holder, key)?.configurable ?? Object.isExtensible(holder))
    .map((key) => ({ place: where, name: `${where}.${String(key)}`, holder, key })),
);

/** What stands in a name's place: it answers everything alike. */
export const answers: Record<string, () => unknown> = {
  undefined: () => undefined,
  false: () => false,
  true: () => true,
  0: () => 0,
  4096: () => 4096,
  'an empty array': () => new Uint8Array(0),
  'an array': () => new Uint8Array(4096),
};

/** What `action` returns while every use of the name gets `answer`. */
export function replaced<T>({ holder, key }: Name, answer: () => unknown, action: () => T): T {
  const before = Object.getOwnPropertyDescriptor(holder, key);
  const { defineProperty, deleteProperty } = Reflect;
  const lie = before === undefined || 'value' in before ? { value: answer } : { get: answer };
  defineProperty(holder, key, { ...lie, configurable: true });
  try {
    return action();
  } finally {
    if (before === undefined) deleteProperty(holder, key);
    else defineProperty(holder, key, before);
  }
}
