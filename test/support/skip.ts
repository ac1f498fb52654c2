/** Skips the running test and says why: mocha itself prints only that it did. */
export function skip(context: Mocha.Context, reason: string): never {
  console.log(`      skipped: ${reason}`);
  return context.skip();
}
