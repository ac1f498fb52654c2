// npm run build: the addon (CMake through cmake-js) into build/Release, ts/ and stress/ with its assets into dist/.
// Cheap when nothing changed: CMake compiles what is out of date, and tsc takes under a second.
import { copyFileSync, mkdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { compileTypeScript, jobs, mustRun, npmBin, root } from './tools.mjs';

// Not `cmake-js compile`: that throws the whole build away and starts over whenever a file does not compile. In CI,
// where the compiler is a known one, a warning is an error.
const werror = process.env.CI ? 'ON' : 'OFF';
mustRun(npmBin('cmake-js'), ['configure', '--log-level=warn', `--CDJA_WERROR=${werror}`]);
mustRun('cmake', ['--build', 'build', '--target', 'jit_arena', '--parallel', jobs]);

const copies = {
  'dist/index.mjs': 'ts/index.mjs',
  'dist/stress/report/uPlot.iife.min.js': 'node_modules/uplot/dist/uPlot.iife.min.js',
  'dist/stress/report/uPlot.min.css': 'node_modules/uplot/dist/uPlot.min.css',
  'dist/stress/recording/workloads/py314-bench_mix.jsonl.gz': 'bench/workloads/py314-bench_mix.jsonl.gz',
};
const esmTypes = 'dist/index.d.mts';
// stress/ is compiled against the types that the package has by then, as a host is.
const projects = ['tsconfig.json', 'stress/tsconfig.json'];
if (!compileTypeScript(projects, 'dist', [...Object.keys(copies), esmTypes])) process.exit(1);
for (const [to, from] of Object.entries(copies)) {
  mkdirSync(join(root, dirname(to)), { recursive: true });
  copyFileSync(join(root, from), join(root, to));
}
writeFileSync(join(root, esmTypes), "export * from './index.js';\n");
