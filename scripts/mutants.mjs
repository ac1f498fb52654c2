// Takes one step of the moving protocol out at a time, and wants a test to notice within a minute: docs/torture.md has
// the table of what noticed what.
//
//   npm run mutants                        all of them, some 20 minutes
//   npm run mutants -- --only no-gate      those whose name contains this
//   npm run mutants -- --seconds 30        the time that each command has
//   npm run mutants -- --fit               only whether every edit still fits the sources: nothing is built
//
// Works in a copy of the sources. A mutant that survives, or an edit that no longer fits the source, fails the run.
import { execFileSync, spawnSync } from 'node:child_process';
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';

const { values: flags } = parseArgs({
  options: { only: { type: 'string' }, seconds: { type: 'string' }, fit: { type: 'boolean' } },
});
const seconds = Number(flags.seconds ?? 60);

// Few executors and many, small batches and large.
const sizes = ['--executors 8 --slices', '--executors 8', '--executors 4000 --slices', '--executors 4000'];
const torture = (...each) => each.map((flags) => `torture --seconds ${seconds} --seed 1 ${flags}`);
const interleaving = (name) => [`interleaving_test ${name}`];
const memory = (name) => [`capi_memory_test ${name}`];
const litmus = (name) => [`litmus_test ${name}`];

const reclaimer = 'native/core/reclaimer.h';
const reclaimerBody = 'native/core/reclaimer.cc';
const collector = 'native/core/collector.cc';
const moves = 'native/core/relocator_moves.cc';
const relocator = 'native/core/relocator.h';
const references = 'native/core/references.cc';
const checks = 'native/core/reloc_check.cc';
const freeze = 'native/core/relocator.cc';
const verify = 'native/core/relocator_verify.cc';
const arena = 'native/core/arena.cc';
const freeing = 'native/core/arena_free.cc';
const table = 'native/core/executor_table.h';
const frames = 'native/core/frame_tables.cc';
const retire = 'native/core/retire.h';

// Every command must fail. `edits`: file, what stands there once, what takes its place.
const mutants = [
  {
    name: 'no-grace-period',
    edits: [[reclaimer, 'waiting_.front().retired.stamp < oldest', 'oldest != 0']],
    killedBy: torture(...sizes),
  },
  {
    name: 'free-at-once-beside-pins',
    edits: [[freeing, '!reclaimer_.AnyPinned()', 'true']],
    killedBy: [
      ...torture(...sizes),
      ...interleaving('who_enters_between_the_entry'),
      ...interleaving('who_has_the_entry_of_what_is_freed'),
    ],
  },
  {
    name: 'same-epoch-is-younger',
    edits: [[reclaimer, 'waiting_.front().retired.stamp < oldest', 'waiting_.front().retired.stamp <= oldest']],
    killedBy: torture(...sizes),
  },
  {
    name: 'publish-before-copy',
    edits: [
      [
        collector,
        '      rewritten = relocator_.Copy(scope, batch_);',
        `      for (const Move& move : batch_) table_[move.executor].entry.store(space_.AddressOf(move.code_to));
      rewritten = relocator_.Copy(scope, batch_);`,
      ],
    ],
    killedBy: [...torture(...sizes), ...interleaving('a_move_is_seen')],
  },
  {
    name: 'no-exit-record-update',
    edits: [
      [
        moves,
        '        entry.store(entry.load(std::memory_order_relaxed) + delta, std::memory_order_release);\n',
        '        (void)entry;\n',
      ],
    ],
    killedBy: torture(...sizes),
  },
  {
    name: 'no-branch-patch',
    edits: [
      [
        moves,
        '        PatchField(scope, table_[reference.source], reference.site, reference.field, reference.rest, target);\n      } else {',
        '      } else {',
      ],
    ],
    killedBy: torture(...sizes),
  },
  {
    name: 'addresses-of-others-forgotten',
    edits: [[references, '  if (added.has_field()) table_[added.source].holds_addresses = 1;\n', '']],
    killedBy: torture(...sizes),
  },
  {
    name: 'no-abs64-rewrite',
    edits: [
      [
        relocator,
        'if (section == nullptr) return;',
        'if (section == nullptr || (arch::FieldOf(field).bytes == 8 && from.code != 0 && to.code != 0)) return;',
      ],
    ],
    killedBy: torture(...sizes),
  },
  {
    name: 'records-reused-at-once',
    edits: [
      [
        freeing,
        '    LetGo({{executor.code_span, executor.data_span, executor.state_span}, index, 0}, at_once);',
        `    SpanId state = executor.state_span;
    LetGo({{executor.code_span, executor.data_span, 0}, index, 0}, at_once);
    if (state != 0) space_.Free(state);`,
      ],
    ],
    killedBy: torture(...sizes),
  },
  {
    name: 'no-gate',
    edits: [[reclaimer, 'if (!gate_.load(std::memory_order_acquire)) break;', 'break;']],
    killedBy: torture(...sizes),
  },
  {
    name: 'gate-waits-for-nobody',
    edits: [[reclaimerBody, 'while (OthersPinned(self)) {', 'while (false) {']],
    killedBy: torture(...sizes),
  },
  {
    name: 'state-moves-beside-pins',
    edits: [
      [collector, 'bool open = !IsInside(self) && CloseGate(gate, progress);', 'bool open = true;\n  (void)self;'],
    ],
    killedBy: torture(...sizes),
  },
  {
    name: 'index-reused-without-generation',
    edits: [
      [
        table,
        'executor.generation_and_kind.store(executor.Generation() + 1, std::memory_order_release);',
        'executor.generation_and_kind.store(1, std::memory_order_release);',
      ],
    ],
    killedBy: torture(...sizes),
  },
  {
    name: 'inner-leave-ends-the-pin',
    edits: [
      [
        reclaimer,
        'if (--slot.depth == 0) slot.epoch.store(0, std::memory_order_release);',
        '--slot.depth, slot.epoch.store(0, std::memory_order_release);',
      ],
    ],
    killedBy: torture(...sizes),
  },
  {
    name: 'far-slot-freed-before-its-user',
    edits: [
      [
        freeing,
        'linker_.far_slots.TakeUnused([&](SpanId span) { LetGo({{span, 0, 0}, 0, 0}, at_once); });',
        'linker_.far_slots.TakeUnused([&](SpanId span) { space_.Free(span); });',
      ],
    ],
    killedBy: torture(...sizes),
  },
  {
    name: 'unlisted-for-ever',
    edits: [['native/core/retire.h', '  space.FreeUnlisted([&]', '  if (false) space.FreeUnlisted([&]']],
    killedBy: memory('what_is_freed_without_memory'),
  },
  {
    name: 'unlisted-before-its-time',
    edits: [[reclaimer, 'unlisted_bytes_ == 0 || unlisted_stamp_ >= OldestPin()', 'unlisted_bytes_ == 0']],
    killedBy: [...memory('what_is_freed_without_memory'), ...memory('what_moves_without_memory')],
  },
  {
    name: 'places-kept-of-what-was-not-installed',
    edits: [[arena, '    for (uint32_t index : batch_) Unplace(index, written);\n', '']],
    killedBy: memory('allocations_may_fail_alias'),
  },
  {
    name: 'range-of-a-target-where-it-is',
    edits: [[checks, 'if (symbol_moves_ && !symbol_with_site_)\n      symbols_ =', 'if (false)\n      symbols_ =']],
    killedBy: ['reloc_range_test of_every_place'],
  },
  {
    name: 'range-of-a-site-where-it-is',
    edits: [[checks, 'if (executor_.movable && !symbol_with_site_) sites_ =', 'if (false) sites_ =']],
    killedBy: ['reloc_range_test of_every_place'],
  },
  {
    name: 'own-distances-kept-apart',
    edits: [[checks, ' || checking.executor.apart()) return false;', ') return false;']],
    killedBy: ['linker_test every_kind_says_its_target'],
  },
  {
    name: 'own-addresses-stay',
    edits: [[checks, 'checked.moves = address && to.moves;', 'checked.moves = false;']],
    killedBy: ['linker_test every_kind_says_its_target'],
  },
  {
    name: 'page-kept-like-a-distance',
    edits: [[checks, ' && field_.rest_bits == 0', '']],
    killedBy: ['fake_cpu_test keeps_pages', 'fake_cpu_test lead_to_their_targets'],
  },
  {
    name: 'page-without-its-rest',
    edits: [[relocator, 'visit(site, field, rest, arch::Ends', 'visit(site, field, rest * 0, arch::Ends']],
    killedBy: ['fake_cpu_test lead_to_their_targets'],
  },
  {
    name: 'checksum-without-the-upper-half',
    edits: [
      [freeze, 'static_cast<uint32_t>(sum + beyond)', 'static_cast<uint32_t>(sum)'],
      [verify, '+ beyond;', ';'],
    ],
    killedBy: ['reloc_range_test verify_sees'],
  },
  {
    name: 'frames-after-publish',
    edits: [
      [collector, '      frames_.Commit();\n', ''],
      [
        collector,
        '      TestPoint(TestPointId::kMovePublished);\n',
        '      TestPoint(TestPointId::kMovePublished);\n      frames_.Commit();\n',
      ],
    ],
    killedBy: interleaving('an_exception_finds_the_frame_of_a_copy'),
  },
  {
    name: 'old-frames-end-with-the-move',
    edits: [
      [
        collector,
        '      frames_.Commit();\n',
        '      frames_.Commit();\n      for (const Move& move : batch_) ForgetFrames(space_, frames_, move.code_from);\n',
      ],
    ],
    killedBy: ['exceptions_test a_move_while'],
  },
  {
    name: 'frames-stay-for-ever',
    edits: [[retire, '  ForgetFrames(space, frames, retired.spans[0]);\n', '']],
    killedBy: ['exceptions_test a_move_while', 'exceptions_test what_takes_the_place'],
  },
  {
    name: 'frames-of-what-was-there-before',
    edits: [[frames, '!found->second.HasReclaimed()', 'true']],
    killedBy: ['exceptions_test what_takes_the_place'],
  },
  {
    name: 'no-frames-between-two-lists',
    edits: [
      [frames, '    if (old != nullptr) os::Deregister(*old);\n', ''],
      [
        frames,
        '    const void** next = group.registered->tables.get();\n',
        '    if (old != nullptr) os::Deregister(*old);\n    const void** next = group.registered->tables.get();\n',
      ],
    ],
    killedBy: interleaving('an_exception_finds_its_frame_while'),
  },
];

// What no stress can show on this CPU: the orders have tests of their own.
mutants.push(
  {
    name: 'no-fence-in-enter',
    edits: [
      [
        reclaimer,
        '      std::atomic_thread_fence(std::memory_order_seq_cst);\n',
        '      std::atomic_signal_fence(std::memory_order_seq_cst);\n',
      ],
    ],
    killedBy: [
      ...litmus('enter_and_reclaim'),
      ...litmus('enter_and_close_gate'),
      ...litmus('enter_and_raise_code_epoch'),
    ],
  },
  {
    name: 'no-fence-in-others-pinned',
    edits: [
      [
        reclaimer,
        `    // Pairs with the fence in Enter: see there.
    std::atomic_thread_fence(std::memory_order_seq_cst);`,
        '    std::atomic_signal_fence(std::memory_order_seq_cst);',
      ],
    ],
    killedBy: [...litmus('enter_and_close_gate'), ...litmus('enter_and_raise_code_epoch')],
  },
  {
    name: 'stamp-is-not-atomic-and-no-fence-in-oldest-pin',
    edits: [
      [
        reclaimerBody,
        'uint64_t stamp = epoch_.fetch_add(1, std::memory_order_acq_rel);',
        `uint64_t stamp = epoch_.load(std::memory_order_relaxed);
  epoch_.store(stamp + 1, std::memory_order_release);`,
      ],
      [
        reclaimerBody,
        `  // Pairs with the fence in Enter: see there.
  std::atomic_thread_fence(std::memory_order_seq_cst);`,
        '  std::atomic_signal_fence(std::memory_order_seq_cst);',
      ],
    ],
    killedBy: litmus('enter_and_reclaim'),
  },
  {
    name: 'no-grace-period',
    edits: [[reclaimer, 'waiting_.front().retired.stamp < oldest', 'oldest != 0']],
    killedBy: [
      ...interleaving('a_pin_that_is_late'),
      ...interleaving('an_entry_that_was_loaded'),
      ...interleaving('who_enters_while_a_move_is_copied'),
      ...interleaving('who_has_the_entry_of_what_is_freed'),
      ...interleaving('a_thread_that_stays'),
    ],
  },
  {
    name: 'same-epoch-is-younger',
    edits: [[reclaimer, 'waiting_.front().retired.stamp < oldest', 'waiting_.front().retired.stamp <= oldest']],
    killedBy: [
      ...interleaving('who_enters_while_a_move_is_copied'),
      ...interleaving('who_has_the_entry_of_what_is_freed'),
    ],
  },
  {
    name: 'pin-has-the-epoch-after-its-own',
    edits: [
      [
        reclaimer,
        '      slot.epoch.store(now, std::memory_order_relaxed);',
        '      slot.epoch.store(now + 1, std::memory_order_relaxed);',
      ],
    ],
    killedBy: interleaving('who_enters_while_a_move_is_copied'),
  },
  {
    name: 'no-gate',
    edits: [[reclaimer, 'if (!gate_.load(std::memory_order_acquire)) break;', 'break;']],
    killedBy: [...interleaving('who_has_no_pin_yet'), ...interleaving('who_has_a_pin')],
  },
  {
    name: 'gate-waits-for-nobody',
    edits: [[reclaimerBody, 'while (OthersPinned(self)) {', 'while (false) {']],
    killedBy: [...interleaving('who_has_a_pin'), ...interleaving('state_stays')],
  },
  {
    name: 'state-moves-beside-pins',
    edits: [
      [collector, 'bool open = !IsInside(self) && CloseGate(gate, progress);', 'bool open = true;\n  (void)self;'],
    ],
    killedBy: interleaving('state_stays'),
  },
  {
    name: 'unaligned-branch-patched-beside-others',
    edits: [
      [collector, 'if (blocked && !CloseGate(gate, progress)) DropBlocked();', 'if (false && blocked) DropBlocked();'],
    ],
    killedBy: interleaving('an_unaligned_branch'),
  },
  {
    name: 'code-epoch-not-raised',
    edits: [[arena, '  reclaimer_.RaiseCodeEpoch();\n', '']],
    killedBy: [...interleaving('a_freeze_is_seen'), ...interleaving('a_move_raises')],
  },
  {
    name: 'move-published-before-it-is-synchronised',
    edits: [
      [collector, ' && (progress.host.synchronise() || CloseGate(gate, progress));\n', ';\n'],
      [
        collector,
        '      progress.result.relocs_rewritten += rewritten + relocator_.Publish(scope, batch_);\n',
        `      progress.result.relocs_rewritten += rewritten + relocator_.Publish(scope, batch_);
      open = progress.host.synchronise() || CloseGate(gate, progress);
`,
      ],
    ],
    killedBy: interleaving('a_move_is_seen'),
  },
  {
    name: 'move-published-after-it-is-stamped',
    edits: [
      [
        moves,
        '    executor.entry.store(space_.AddressOf(move.code_to), std::memory_order_release);\n',
        '    (void)executor;\n',
      ],
      [
        collector,
        '  TestPoint(TestPointId::kMoveRetired);',
        `  TestPoint(TestPointId::kMoveRetired);
  for (const Move& move : batch_) table_[move.executor].entry.store(space_.AddressOf(move.code_to));`,
      ],
    ],
    killedBy: interleaving('a_move_is_seen'),
  },
  {
    name: 'freeze-published-before-it-is-written',
    edits: [
      [
        arena,
        '  TestPoint(TestPointId::kFreezeWritten);',
        `  for (uint32_t index : batch_) table_[index].entry.store(space_.AddressOf(table_[index].code_span));
  TestPoint(TestPointId::kFreezeWritten);`,
      ],
    ],
    killedBy: interleaving('a_freeze_is_seen'),
  },
  {
    name: 'freeze-published-before-it-is-synchronised',
    edits: [
      [
        arena,
        '  if (failed.ok() && !Synchronise(self)) failed = CloseGate(gate, self);\n',
        `  for (uint32_t index : batch_) table_[index].entry.store(space_.AddressOf(table_[index].code_span));
  if (failed.ok() && !Synchronise(self)) failed = CloseGate(gate, self);
`,
      ],
    ],
    killedBy: interleaving('a_freeze_is_seen'),
  },
  {
    name: 'free-clears-the-entry-last',
    edits: [
      [freeing, '    executor.entry.store(0, std::memory_order_release);\n', ''],
      [
        freeing,
        '  if (!at_once) reclaimer_.Stamp();\n  events_.Flush();\n  return Status::Ok();',
        `  if (!at_once) reclaimer_.Stamp();
  for (uint32_t i = 0; i < count; i++) table_[IndexOf(ids[i])].entry.store(0);
  return Status::Ok();`,
      ],
    ],
    killedBy: interleaving('a_free_takes_the_entry'),
  },
  {
    name: 'generation-is-loaded-before-the-entry',
    edits: [
      [
        'native/core/arena.h',
        `    uint64_t entry = executor.entry.load(std::memory_order_acquire);
    TestPoint(TestPointId::kEntryLoaded);
    return executor.Generation(std::memory_order_acquire) == GenerationOf(id) ? entry : 0;`,
        `    bool right = executor.Generation(std::memory_order_acquire) == GenerationOf(id);
    TestPoint(TestPointId::kEntryLoaded);
    uint64_t entry = executor.entry.load(std::memory_order_acquire);
    return right ? entry : 0;`,
      ],
    ],
    killedBy: interleaving('a_stale_id'),
  },
  {
    name: 'index-reused-without-generation',
    edits: [
      [
        table,
        'executor.generation_and_kind.store(executor.Generation() + 1, std::memory_order_release);',
        'executor.generation_and_kind.store(1, std::memory_order_release);',
      ],
    ],
    killedBy: interleaving('a_stale_id'),
  },
  {
    name: 'inner-leave-ends-the-pin',
    edits: [
      [
        reclaimer,
        'if (--slot.depth == 0) slot.epoch.store(0, std::memory_order_release);',
        '--slot.depth, slot.epoch.store(0, std::memory_order_release);',
      ],
    ],
    killedBy: interleaving('nested_pins'),
  },
  {
    name: 'records-reused-at-once',
    edits: [
      [
        freeing,
        '    LetGo({{executor.code_span, executor.data_span, executor.state_span}, index, 0}, at_once);',
        `    SpanId state = executor.state_span;
    LetGo({{executor.code_span, executor.data_span, 0}, index, 0}, at_once);
    if (state != 0) space_.Free(state);`,
      ],
    ],
    killedBy: interleaving('a_trace_that_dies'),
  },
  {
    name: 'retired-bytes-without-limit',
    edits: [
      [
        arena,
        'if (reclaimer_.retired_bytes() >= max_retired_bytes_)',
        'if (reclaimer_.retired_bytes() == ~uint64_t{0})',
      ],
    ],
    killedBy: interleaving('a_thread_that_stays'),
  },
);

const root = new URL('..', import.meta.url).pathname;
const copy = mkdtempSync(join(tmpdir(), 'jit-arena-mutants-'));
process.on('exit', () => rmSync(copy, { recursive: true, force: true }));
for (const name of ['CMakeLists.txt', 'native', 'test/native'])
  cpSync(join(root, name), join(copy, name), { recursive: true });

const build = (...targets) =>
  execFileSync('cmake', ['--build', join(copy, 'build'), '--parallel', '2', '--target', ...targets], { stdio: 'pipe' });
if (!flags.fit) execFileSync('cmake', ['-S', copy, '-B', join(copy, 'build'), '-DJA_ADDON=OFF'], { stdio: 'pipe' });

// What is said in the last lines that say something.
const reasonOf = (result) => {
  const lines = `${result.stdout}`.split('\n').filter((line) => line.trim() !== '' && !line.startsWith('  torture'));
  const said = lines.find((line) => /^FAILED|^ {2}\S+\.cc:\d+/.test(line)) ?? lines.at(-1) ?? '';
  return (result.error?.code === 'ETIMEDOUT' ? `hangs; ${said}` : said.trim()).slice(0, 110);
};

const rows = [];
for (const { name, edits, killedBy } of mutants) {
  if (!name.includes(flags.only ?? '')) continue;
  const originals = new Map();
  let fits = true;
  for (const [file, from, to] of edits) {
    const path = join(copy, file);
    const source = readFileSync(path, 'utf8');
    if (!originals.has(path)) originals.set(path, source);
    if (source.split(from).length === 2)
      writeFileSync(
        path,
        source.replace(from, () => to),
      );
    else fits = false;
  }
  const row = (command, outcome, time, reason) => {
    rows.push({ name, command, outcome });
    console.log(`${outcome.padEnd(9)} ${name.padEnd(34)} ${time.padStart(7)}  ${command}\n${' '.repeat(10)}${reason}`);
  };
  if (!fits) {
    row('', 'UNFIT', '', `the edit does not fit ${edits.map(([file]) => file).join(', ')} any more`);
  } else if (flags.fit) {
    row('', 'fits', '', '');
  } else {
    try {
      build(...new Set(killedBy.map((command) => command.split(' ')[0])));
      for (const command of killedBy) {
        const [program, ...args] = command.split(' ');
        const begin = performance.now();
        const result = spawnSync(join(copy, 'build/test', program), args, {
          encoding: 'utf8',
          timeout: (seconds + 10) * 1000,
          env: { ...process.env, LITMUS_SECONDS: `${seconds}` },
        });
        const time = `${((performance.now() - begin) / 1000).toFixed(1)} s`;
        row(command, result.status === 0 ? 'SURVIVED' : 'killed', time, reasonOf(result));
      }
    } catch (error) {
      row(
        '',
        'UNBUILT',
        '',
        `${error.stdout ?? error}`.split('\n').find((line) => line.includes('error')) ?? `${error}`,
      );
    }
  }
  for (const [path, source] of originals) writeFileSync(path, source);
}
const wanted = flags.fit ? 'fits' : 'killed';
const bad = rows.filter((row) => row.outcome !== wanted);
console.log(`${rows.length - bad.length} ${wanted}, ${bad.length} not`);
process.exitCode = bad.length === 0 && rows.length !== 0 ? 0 : 1;
