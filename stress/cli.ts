#!/usr/bin/env node
// The command `jit-arena`. It has subcommands; each takes its own arguments.
import { stress } from './command';

const HELP = `usage: jit-arena <command> [options]

commands:
  stress    replay a recorded JIT workload as real machine code in an arena, and check it

jit-arena <command> --help tells more.
`;

async function main([command, ...args]: string[]): Promise<number> {
  if (command === 'stress') return stress(args);
  if (command === '--help' || command === '-h' || command === 'help') {
    process.stdout.write(HELP);
    return 0;
  }
  process.stderr.write(command === undefined ? HELP : `jit-arena: unknown command ${command}\n\n${HELP}`);
  return 2;
}

main(process.argv.slice(2)).then(
  (status) => {
    process.exitCode = status;
  },
  (error) => {
    console.error(error);
    process.exitCode = 1;
  },
);
