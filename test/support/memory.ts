// Bytes in every kind of memory that JavaScript has, for what takes them and what must refuse them.

type Resizable<T> = new (bytes: number, options: { maxByteLength: number }) => T;
interface WasmMemory {
  readonly buffer: ArrayBuffer;
  grow(pages: number): number;
}
const { WebAssembly } = globalThis as unknown as {
  WebAssembly: { Memory: new (limits: { initial: number }) => WasmMemory };
};

export const wasmMemory = () => new WebAssembly.Memory({ initial: 1 });

/** The view, when the memory under it has gone elsewhere. */
export function detach<T extends ArrayBufferView>(view: T): T {
  structuredClone(view.buffer, { transfer: [view.buffer as ArrayBuffer] });
  return view;
}

export const resizable = (bytes = 8, maxByteLength = 64) =>
  new (ArrayBuffer as Resizable<ArrayBuffer>)(bytes, { maxByteLength });
export const growable = (bytes = 8, maxByteLength = 64) =>
  new (SharedArrayBuffer as Resizable<SharedArrayBuffer>)(bytes, { maxByteLength });

/** Views of the given bytes in memory that is fine. */
export function copiesInAllMemory(bytes: Uint8Array): Uint8Array[] {
  const buffers = [new ArrayBuffer(bytes.length + 3), new SharedArrayBuffer(bytes.length + 3), wasmMemory().buffer];
  return buffers.map((buffer) => {
    const view = new Uint8Array(buffer, 3, bytes.length);
    view.set(bytes);
    return view;
  });
}
