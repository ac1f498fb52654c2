// What the JavaScript benches share: the package as it was built, koffi, loops that V8 compiles separately, and taking
// turns.
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';

export const root = fileURLToPath(new URL('../..', import.meta.url));
export const load = createRequire(import.meta.url);
export const { Arena, relocKindNumbers, symbolAddress, TargetKind } = load('../../dist/index.js');

/** koffi and the process's own symbols, or why there is none. */
export function loadKoffi() {
  try {
    const koffi = load('koffi');
    // Also needed before koffi can call a pointer: it crashes without.
    return { koffi, process: koffi.load(null) };
  } catch (error) {
    return { missing: `not installed: ${error.code ?? error.message}` };
  }
}

/**
 * A function that evaluates `expression` n times and returns the sum. Made from text, so that no two loops share what V8
 * has learned about what they call.
 */
export function makeLoop(names, expression) {
  const loop = new Function(
    ...Object.keys(names),
    `return (n) => { let sum = 0; for (let i = 0; i < n; i++) sum += ${expression}; return sum; };`,
  );
  return loop(...Object.values(names));
}

/**
 * Nanoseconds per operation of each variant, `runs` times; the variants take turns. A variant is a function that does n
 * operations. What it returns is checked by `check(result, n)`.
 */
export function takeTurns(variants, { runs, operations, check = () => {} }) {
  const nanos = Object.fromEntries(Object.keys(variants).map((name) => [name, []]));
  const once = (name) => {
    const start = process.hrtime.bigint();
    const result = variants[name](operations);
    const time = Number(process.hrtime.bigint() - start);
    check(result, operations);
    return time / operations;
  };
  // Until V8 has compiled it for good.
  for (const name of Object.keys(variants)) for (let i = 0; i < 3; i++) once(name);
  for (let run = 0; run < runs; run++) for (const name of Object.keys(variants)) nanos[name].push(once(name));
  return nanos;
}

export function expect(actual, expected, what) {
  if (actual !== expected) throw new Error(`${what}: expected ${expected}, got ${actual}`);
}
